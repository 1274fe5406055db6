//! Redis commands over a session, with a stand-in for the node.

use std::sync::Arc;
use std::task::{Context, Waker};

use common::Time;
use common::text::{Dialect, Limits};

use crate::client_port::backend::Backend;
use crate::client_port::session::{Bounds, Session};
use crate::client_port::stub::Stub;
use crate::client_port::{Settings, task};
use crate::replies::{Registered, Replies};

/// A connection and what is behind it.
struct Line {
    session: Session,
    stub: Arc<Stub>,
    backend: Backend,
    me: Registered,
}

fn settings() -> Settings {
    Settings {
        dialect: Dialect::Uoft,
        greeting: None,
        limits: Limits::new(20, 1000, 64, 4000),
        bounds: Bounds { pending: 64, bytes: 16 * 1024 },
        admin_token: None,
        max_connections: 100,
        max_memory: 1 << 30,
    }
}

impl Line {
    fn new() -> Line {
        let replies = Replies::new();
        let stub = Stub::new(replies.clone());
        let session = Session::new(&settings(), true);
        Line { session, backend: Backend::Stub(stub.clone()), stub, me: replies.register() }
    }

    /// Lets everything happen that can, and returns what was sent.
    fn turn(&mut self) -> String {
        let mut sent = Vec::new();
        loop {
            self.session.process(Time(1), &self.backend, self.me.conn());
            sent.extend_from_slice(self.session.output());
            let count = self.session.output().len();
            self.session.sent(count);
            let mut replies = Vec::new();
            let came = self.me.inbox().poll_drain(&mut Context::from_waker(Waker::noop()), &mut replies);
            replies.into_iter().for_each(|(index, reply)| self.session.settle(index, reply));
            if came.is_pending() && count == 0 {
                return String::from_utf8_lossy(&sent).replace("\r\n", "\n");
            }
        }
    }

    /// What is answered to bytes.
    fn raw(&mut self, bytes: &[u8]) -> String {
        for piece in bytes.chunks(task::READ) {
            self.session.received(piece);
        }
        self.turn()
    }

    /// What is answered to commands, one a line, words separated by blanks.
    fn say(&mut self, commands: &str) -> String {
        self.raw(&encoded(commands))
    }
}

fn encoded(commands: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands.lines() {
        let words: Vec<&str> = command.split(' ').collect();
        bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        words.iter().for_each(|word| bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes()));
    }
    bytes
}

#[test]
fn the_first_bytes_tell_who_calls() {
    for (first, reply) in [
        ("*1\r\n$4\r\nPING\r\n", "+PONG\n"),
        ("PING\r\n", "+PONG\n"),
        ("\r\n\r\necho 'a b'\r\n", "$3\na b\n"),
        ("SET k v\r\nGET k\r\n", "+OK\n$1\nv\n"),
        ("get k\r\n", "GET_ERROR k\n"),
        ("put k v\r\nget k\r\n", "PUT_SUCCESS k v\nGET_SUCCESS k v\n"),
        ("getset k v\r\n", "GETSET_SUCCESS k\n"),
        ("post / HTTP/1.1\r\nHost: x\r\n", ""),
        ("Host: x\r\n", ""),
    ] {
        let mut line = Line::new();
        let whole = line.raw(first.as_bytes());
        assert!(whole.starts_with(reply), "{first:?}: {whole:?}");
        // The same, however slowly the bytes come.
        let mut line = Line::new();
        let bytewise: String = first.bytes().map(|byte| line.raw(&[byte])).collect();
        assert_eq!(bytewise, whole, "{first:?}");
    }
    let mut line = Line::new();
    line.raw(b"POST / HTTP/1.1\r\n*1\r\n$4\r\nPING\r\n");
    assert!(line.session.is_done(), "a browser is hung up on");
}

#[test]
fn a_greeted_client_is_a_text_client() {
    let mut line = Line::new();
    line.session = Session::new(&Settings { greeting: Some("hi".into()), ..settings() }, true);
    assert!(line.raw(b"PING\r\n").starts_with("hi\nFAILED"));
}

#[test]
fn strings_and_numbers() {
    let mut line = Line::new();
    let said =
        line.say("SET a 1\nGET a\nGET none\nSET a 2 NX\nSET a 2 XX GET\nINCRBY a 40\nAPPEND a x\nINCR a\nSTRLEN a");
    assert_eq!(said, "+OK\n$1\n1\n$-1\n$-1\n$1\n1\n:42\n:3\n-ERR value is not an integer or out of range\n:3\n");
    let said = line.say("GETRANGE a 1 -1\nGETRANGE a -1 0\nTYPE a\nTYPE none\nOBJECT ENCODING a\nGETDEL a\nGETDEL a");
    assert_eq!(said, "$2\n2x\n$0\n\n+string\n+none\n$6\nembstr\n$3\n42x\n$-1\n");
    assert_eq!(line.say("SETNX b 1\nSETNX b 2\nGETSET b 3\nEXISTS a b b\nDEL a b"), ":1\n:0\n$1\n1\n:2\n:1\n");
    assert_eq!(line.say("MSET a 1 b 2\nMGET a c b\nUNLINK a b c\nMSET a"), {
        "+OK\n*3\n$1\n1\n$-1\n$1\n2\n:2\n-ERR wrong number of arguments for 'mset' command\n"
    });
}

#[test]
fn deadlines() {
    let mut line = Line::new();
    line.say("SET a 1 EX 100\nSET b 1");
    assert_eq!(line.say("TTL a\nPTTL a\nTTL b\nTTL none\nEXPIRETIME a"), ":100\n:100000\n:-1\n:-2\n:1700000100\n");
    assert_eq!(line.say("PERSIST a\nTTL a\nPERSIST a\nEXPIRE b 7\nTTL b"), ":1\n:-1\n:0\n:1\n:7\n");
    assert_eq!(line.say("GETEX b PX 9000\nPTTL b\nSET b 2 KEEPTTL\nPTTL b\nSET b 3\nPTTL b"), {
        "$1\n1\n:9000\n+OK\n:9000\n+OK\n:-1\n"
    });
    for (command, error) in [
        ("SET a 1 EX 0", "invalid expire time in 'set' command"),
        ("SET a 1 EX", "syntax error"),
        ("SET a 1 EX 1 PX 1", "syntax error"),
        ("SET a 1 NX XX", "syntax error"),
        ("SET a 1 EX x", "value is not an integer or out of range"),
        ("SETEX a 0 1", "invalid expire time in 'setex' command"),
        ("EXPIRE a 9223372036854775807", "invalid expire time in 'expire' command"),
        ("EXPIRE a 1 NX GT", "NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE a 1 LT GT", "GT and LT options at the same time are not compatible"),
        ("EXPIRE a 1 FOO", "Unsupported option FOO"),
        ("GETEX a EX 1 PERSIST", "syntax error"),
    ] {
        assert_eq!(line.say(command), format!("-ERR {error}\n"), "{command}");
    }
}

#[test]
fn errors_are_worded_as_in_redis() {
    let mut line = Line::new();
    let long = "x".repeat(200);
    for (command, error) in [
        ("foo a b", "ERR unknown command 'foo', with args beginning with: 'a' 'b' ".to_owned()),
        ("foo", "ERR unknown command 'foo', with args beginning with: ".to_owned()),
        ("GET", "ERR wrong number of arguments for 'get' command".to_owned()),
        ("PING a b", "ERR wrong number of arguments for 'ping' command".to_owned()),
        ("CLIENT SETNAME", "ERR wrong number of arguments for 'client|setname' command".to_owned()),
        ("CLIENT FOO", "ERR unknown subcommand 'FOO'. Try CLIENT HELP.".to_owned()),
        ("SELECT 1", "ERR DB index is out of range".to_owned()),
        ("HELLO 4", "NOPROTO unsupported protocol version".to_owned()),
        ("SCAN x", "ERR invalid cursor".to_owned()),
        (
            "CONFIG SET port 1",
            "ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config".to_owned(),
        ),
        (
            "MULTI",
            "ERR MULTI is not supported: there are no transactions across keys: each command is atomic by itself"
                .to_owned(),
        ),
    ] {
        assert_eq!(line.say(command), format!("-{error}\n"), "{command}");
    }
    let said = line.say(&format!("foo {long} b"));
    assert_eq!(said, format!("-ERR unknown command 'foo', with args beginning with: '{}' \n", &long[..128]));
    assert!(line.say("AUTH x").starts_with("-ERR AUTH <password> called without any password configured"));
    assert_eq!(line.say("AUTH default x\nAUTH other x").split('\n').next(), Some("+OK"));
}

#[test]
fn what_is_too_long_is_told_and_the_stream_goes_on() {
    let mut line = Line::new();
    let (key, value) = ("k".repeat(65), "v".repeat(4001));
    assert!(line.say(&format!("GET {key}")).starts_with("-ERR key of 65 bytes: at most 64"));
    assert!(line.say(&format!("SET k {value}")).starts_with("-ERR argument of 4001 bytes: values may have 4000"));
    assert!(line.say("GET ").starts_with("-ERR an empty key"));
    let pairs = format!("MSET{}", format!(" k {}", "v".repeat(3000)).repeat(50));
    assert!(line.say(&pairs).starts_with("-ERR command of more than"));
    assert_eq!(line.say("PING\nDBSIZE"), "+PONG\n:7\n");
    assert!(line.raw(b"*1\r\n:4\r\n").starts_with("-ERR Protocol error: expected '$', got ':'\n"));
    assert!(line.session.is_done(), "as Redis, it hangs up on those who speak something else");
}

#[test]
fn the_newer_protocol_is_spoken_once_asked_for() {
    let mut line = Line::new();
    let hello = line.say("HELLO 3 AUTH default pw SETNAME me");
    assert!(hello.starts_with("%7\n$6\nserver\n$5\nredis\n") && hello.contains("$5\nproto\n:3\n"), "{hello}");
    assert_eq!(line.say("GET none\nCLIENT GETNAME\nCONFIG GET save"), "_\n$2\nme\n%1\n$4\nsave\n$0\n\n");
    assert!(line.say("INFO server").starts_with('='));
    assert_eq!(line.say("RESET\nGET none\nCLIENT GETNAME"), "+RESET\n$-1\n$-1\n");
    assert_eq!(line.say("QUIT\nPING"), "+OK\n");
    assert!(line.session.is_done());
}

#[test]
fn lists_of_commands_are_whole() {
    let mut line = Line::new();
    for (command, reply) in [
        (
            "COMMAND INFO get nope",
            "*2\n*10\n$3\nget\n:2\n*2\n+readonly\n+fast\n:1\n:1\n:1\n*2\n+@read\n+@string\n*0\n*0\n*0\n$-1\n",
        ),
        ("COMMAND GETKEYS mset a 1 b 2", "*2\n$1\na\n$1\nb\n"),
        ("SCAN 0", "*2\n$1\n0\n*0\n"),
        ("KEYS *", "*0\n"),
        ("RANDOMKEY", "$-1\n"),
        ("WAIT 1 0", ":2\n"),
    ] {
        assert_eq!(line.say(command), reply, "{command}");
    }
    assert!(line.say("COMMAND").starts_with(&format!("*{}\n", super::table::COMMANDS.len())));
    assert!(line.say("COMMAND DOCS").len() > 5_000);
    line.say("MSET a 1 b 2 bb 3");
    assert_eq!(
        line.say("SCAN 0 MATCH b* COUNT 100\nSCAN 0 TYPE list"),
        "*2\n$1\n0\n*2\n$1\nb\n$2\nbb\n*2\n$1\n0\n*0\n"
    );
}

#[test]
fn what_this_server_cannot_do_is_done_elsewhere() {
    let mut line = Line::new();
    assert_eq!(line.say("SET far1 x\nGET far1\nMGET far1 none\nINCR far2\nEXISTS far1 far2"), {
        "+OK\n$1\nx\n*2\n$1\nx\n$-1\n:1\n:2\n"
    });
    assert!(line.stub.relayed() >= 6, "{}", line.stub.relayed());
    // Not served here, found out when it was tried.
    assert_eq!(line.say("GET down1\nSET down1 y\nGET down1"), "$-1\n+OK\n$1\ny\n");
    // The outcome is not known here: it is asked for again, with the same id.
    assert_eq!(line.say("SET lost1 z\nGET lost1"), "+OK\n$1\nz\n");
}

#[test]
fn replies_come_in_order_while_writes_are_under_way() {
    let mut line = Line::new();
    line.stub.hold();
    assert_eq!(line.say("SET a 1\nGET b\nSET c 2\nPING"), "");
    // A read of what is being written waits, and so does all behind it.
    assert_eq!(line.say("GET a\nECHO behind"), "");
    line.stub.release(|answers| answers.reverse());
    assert_eq!(line.turn(), "+OK\n$-1\n+OK\n+PONG\n$1\n1\n$6\nbehind\n");
    assert_eq!(line.session.waiting(), 0);
}

#[test]
fn a_write_that_comes_back_undone_is_not_executed_after_a_later_one() {
    let mut line = Line::new();
    line.stub.hold();
    line.say("SET k 1\nSET k 2");
    // The first comes back as refused, the second is executed.
    line.stub.release(|answers| answers[0].1 = crate::replica::Reply::Refused(crate::replica::Refusal::WriteLocked));
    let said = line.turn();
    assert!(said.starts_with("-ERR unavailable, nothing was executed: a later write"), "{said}");
    assert!(said.ends_with("+OK\n") && line.stub.relayed() == 0, "{said}");
    // Both come back: both are done elsewhere, in their order.
    line.stub.hold();
    line.say("SET k 3\nSET k 4");
    line.stub.release(|answers| {
        answers
            .iter_mut()
            .for_each(|answer| answer.1 = crate::replica::Reply::Refused(crate::replica::Refusal::WriteLocked));
    });
    assert_eq!(line.turn() + &line.say("GET k"), "+OK\n+OK\n$1\n4\n");
    assert_eq!(line.stub.relayed(), 2);
}

#[test]
fn each_set_of_a_run_has_a_reply_of_its_own() {
    use crate::replica::{Refusal, Reply};
    let mut line = Line::new();
    line.stub.hold();
    assert_eq!(line.say("SET a 1\nSET b 2\nSET far1 3\nSET c 4\nSET d 5\nSET e 6"), "");
    line.stub.release(|answers| {
        // a comes back and is done elsewhere, of b nobody knows what became; the answers come in any order.
        answers[0].1 = Reply::Refused(Refusal::WriteLocked);
        answers[1].1 = Reply::Unknown(common::retry::FORGOTTEN);
        answers.reverse();
    });
    let said = line.turn();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 6 && lines[1].starts_with("-ERR unknown outcome"), "{said}");
    assert!((0..6).all(|at| at == 1 || lines[at] == "+OK"), "{said}");
    assert_eq!(line.say("MGET a far1 c d e"), "*5\n$1\n1\n$1\n3\n$1\n4\n$1\n5\n$1\n6\n");
    assert_eq!((line.session.waiting(), line.stub.relayed()), (0, 3));
}

#[test]
fn a_key_that_a_command_names_twice_is_written_once() {
    let mut line = Line::new();
    assert_eq!(line.say("MSET k 1 other x k 2\nMGET k other\nDEL k k none"), "+OK\n*2\n$1\n2\n$1\nx\n:1\n");
    assert_eq!(line.stub.writes().len(), 2 + 2);
}

#[test]
fn a_write_that_comes_back_undone_waits_for_a_later_one_that_is_with_the_relay() {
    use smallvec::smallvec;

    use super::owed::{Owed, Shape, Task};
    use crate::client_port::buffer::Buffer;
    use crate::client_port::pending::Pending;
    use crate::replica::{Refusal, Reply};
    use common::blob::Blob;
    use common::forward::{Job, What};
    let mut pending = Pending::default();
    for _ in 0..2 {
        let job = Job::Write { key: Blob("k".into()), what: What::Put(Blob("v".into())) };
        pending.owe(Owed::new(common::resp::Proto::Two, Shape::Set, smallvec![Task::new(1, job)]));
    }
    assert!(pending.order(1, 9).is_some(), "with the relay, as its slot has moved meanwhile");
    pending.settle(0, Reply::Refused(Refusal::NotResponsible));
    assert!(pending.redo(9).is_empty(), "it would be executed behind the later one");
    pending.settle(1, Reply::Written(common::Outcome::Created));
    assert!(pending.redo(9).is_empty(), "it is too late");
    let mut out = Buffer::default();
    pending.flush(Dialect::Uoft, &mut out, 1000);
    let said = String::from_utf8_lossy(out.rest()).into_owned();
    assert!(said.starts_with("-ERR unavailable, nothing was executed: a later write") && said.ends_with("+OK\r\n"));
    assert!(pending.is_empty() && pending.waiting() == 0 && pending.bytes() == 0);
}

#[test]
fn no_more_is_under_way_than_is_allowed() {
    let mut line = Line::new();
    line.stub.hold();
    // Seven runs of eight fit behind the first, and seven of the next run, one by one.
    let sets: String = (0..99).map(|number| format!("SET k{number} v\n")).collect();
    line.say(&format!("INCR n\n{sets}"));
    assert_eq!((line.session.waiting(), line.stub.held()), (64, 64));
    line.stub.release(|_| ());
    assert_eq!(line.turn(), format!(":1\n{}", "+OK\n".repeat(99)));
    // So many bytes: two whole runs, and of the third the first six.
    line.stub.hold();
    line.say(&format!("SET k {}\n", "x".repeat(490)).repeat(30));
    assert_eq!(line.stub.held(), 22);
    line.stub.release(|_| ());
    assert_eq!(line.turn(), "+OK\n".repeat(30));
}

#[test]
fn a_client_that_leaves_leaves_nothing_behind() {
    let mut line = Line::new();
    line.stub.hold();
    line.say("SET a 1\nSET b 2\nGET a\nMSET c 1 d 2");
    line.session.abandon(None);
    line.stub.release(|answers| answers[0].1 = crate::replica::Reply::Refused(crate::replica::Refusal::WriteLocked));
    line.turn();
    line.session.abandon(None);
    assert_eq!(line.session.waiting(), 0);
    assert!(line.session.memory() < 20_000, "{}", line.session.memory());
}
