//! The client port over real sockets, with a stand-in for the node.

mod crowd;
mod together;

use std::time::Instant;

use common::text::{ReplyParser, Word};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stub::Stub;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    port: ClientPort,
    stub: Arc<Stub>,
}

fn settings() -> Settings {
    Settings {
        dialect: Dialect::Uoft,
        greeting: None,
        limits: Limits::default(),
        bounds: Bounds { pending: 256, bytes: 1 << 20 },
        admin_token: Some("let-me-in".into()),
        max_connections: 100,
        max_memory: 1 << 30,
    }
}

async fn server(settings: Settings) -> Server {
    let replies = Replies::new();
    let stub = Stub::new(replies.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = ClientPort::with(listener, settings, Backend::Stub(stub.clone()), replies, Arc::default()).unwrap();
    Server { port, stub }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.port.addr()).await.unwrap()
    }

    /// Everything answered to `requests` until the server hangs up after our own end.
    async fn session(&self, requests: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(requests).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answers = Vec::new();
        within(stream.read_to_end(&mut answers)).await.unwrap();
        answers.escape_ascii().to_string().replace("\\r\\n", "\n").replace("\\\"", "\"").replace("\\'", "'")
    }

    async fn still_serves(&self) {
        assert_eq!(self.session(b"put probe 1\ndelete probe\n").await, "PUT_SUCCESS probe 1\nDELETE_SUCCESS probe\n");
    }

    async fn until(&self, what: &str, condition: impl Fn(&Server) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the server answers in time")
}

async fn lines(stream: &mut TcpStream, count: usize) -> Vec<String> {
    let mut got = Vec::new();
    while got.iter().filter(|byte| **byte == b'\n').count() < count {
        let mut piece = vec![0; 65536];
        let length = within(stream.read(&mut piece)).await.unwrap();
        assert!(length > 0, "the server hung up after {:?}", got.escape_ascii().to_string());
        got.extend_from_slice(&piece[..length]);
    }
    String::from_utf8(got).unwrap().lines().map(str::to_owned).collect()
}

const REQUESTS: &[u8] = b"get k\nput k v 1 \nput k w\nget k\nput k null\nput k null\nput k\ndelete k\nput k v\ndelete k\n\
    keyrange\nKEYRANGE_READ\necs\nstatus\nget an unset value\nget down1\nput down1 v\ndelete far1\nput locked1 v\nput lost1 v\n\
    delete lost1\nhello\nputb 3 4\na\nbv\r\nwgetb 3\na\nb\nget a\ngetb 1\nxdeleteb 3\na\nbdeleteb 3\na\nbputb 4 1\ndownv\n\
    getb 4\ndownputb 4 1\nlostvreq 1f 1 1 put lost v\nreq 1f 2 2 put once v\nreq 1f 3 2 retry delete down\n";

#[tokio::test]
async fn golden_session_uoft() {
    let server = server(settings()).await;
    let expected = "\
GET_ERROR k
PUT_SUCCESS k v 1 \nPUT_UPDATE k w
GET_SUCCESS k w
DELETE_SUCCESS k
DELETE_ERROR k
DELETE_ERROR k
DELETE_ERROR k
PUT_SUCCESS k v
DELETE_SUCCESS k
KEYRANGE_SUCCESS 0,f,127.0.0.1:1;
KEYRANGE_READ_SUCCESS 0,f,127.0.0.1:2;
ECS_SUCCESS 127.0.0.1:3000
STATUS_SUCCESS {\"stub\":true}
GET_ERROR an unset value
SERVER_STOPPED
SERVER_STOPPED
SERVER_NOT_RESPONSIBLE
SERVER_WRITE_LOCK
PUT_ERROR lost1 v
FAILED unknown outcome: no answer from a replica
FAILED unknown request `hello`: known are put, get, delete, keyrange, keyrange_read, ecs, status, putb, getb, deleteb, req, scan, change, plan, leave, remove, rebalance, cancel, admin
PUTB_SUCCESS
GETB_SUCCESS 4
v
w
GET_ERROR a
GETB_ERROR
DELETEB_SUCCESS
DELETEB_ERROR
SERVER_STOPPED its coordinator is not in sync yet
SERVER_STOPPED its coordinator is not in sync yet
PUTB_ERROR no answer from a replica
PUT_ERROR lost v
PUT_SUCCESS once v
SERVER_STOPPED its coordinator is not in sync yet
";
    assert_eq!(server.session(REQUESTS).await, expected);
    let once = server.stub.writes().into_iter().find(|write| &write.key[..] == b"once").unwrap();
    let id = once.request.unwrap();
    assert_eq!((id.client.0, id.seq, id.lowest_unacked, once.retry), (0x1f, 2, 2, false));
}

#[tokio::test]
async fn golden_session_tum() {
    let server = server(Settings { dialect: Dialect::Tum, greeting: Some("Hello".into()), ..settings() }).await;
    server.stub.alone();
    let expected = "\
Hello
get_error k no such key
put_success k
put_update k
get_success k w
put_update k
put_update k
error `put` without a value: write `put <key> <value>`, or `delete <key>` to remove the key
delete_success k
put_success k
delete_success k
keyrange_success 0,f,127.0.0.1:1;
keyrange_read_success 0,f,127.0.0.1:2;
ecs_error alone
status_success {\"stub\":true}
get_error an unset value no such key
server_stopped
server_stopped
server_not_responsible
server_write_lock
put_error lost1 v
error unknown outcome: no answer from a replica
error unknown request `hello`: known are put, get, delete, keyrange, keyrange_read, ecs, status, putb, getb, deleteb, req, scan, change, plan, leave, remove, rebalance, cancel, admin
putb_success
getb_success 4
v
w
get_error a no such key
getb_error
deleteb_success
deleteb_error
server_stopped its coordinator is not in sync yet
server_stopped its coordinator is not in sync yet
putb_error no answer from a replica
put_error lost v
put_success once
server_stopped its coordinator is not in sync yet
";
    assert_eq!(server.session(REQUESTS).await, expected);
}

#[tokio::test]
async fn a_thousand_pipelined_requests_are_answered_in_order() {
    let server = server(settings()).await;
    let mut requests = String::new();
    let mut expected = Vec::new();
    for n in 0..1000 {
        let (request, answer) = match n % 4 {
            0 => (format!("put k{n} v{n}"), format!("PUT_SUCCESS k{n} v{n}")),
            1 => (format!("get k{}", n - 1), format!("GET_SUCCESS k{} v{}", n - 1, n - 1)),
            2 => (format!("what{n}"), format!("FAILED unknown request `what{n}`")),
            _ => (format!("get none{n}"), format!("GET_ERROR none{n}")),
        };
        requests += &(request + "\r\n");
        expected.push(answer);
    }
    let mut stream = server.connect().await;
    stream.write_all(requests.as_bytes()).await.unwrap();
    let got = lines(&mut stream, 1000).await;
    assert_eq!(got.len(), 1000);
    for (got, expected) in got.iter().zip(&expected) {
        assert!(got.starts_with(expected), "{got} is not {expected}");
    }
}

#[tokio::test]
async fn answers_that_come_backwards_leave_in_order() {
    let server = server(settings()).await;
    server.stub.hold();
    let mut stream = server.connect().await;
    stream.write_all(b"put a 1\nput b 2\nget c\nput a 3\nkeyrange\nget later\nput d 4\n").await.unwrap();
    server.until("five requests to be under way", |s| s.stub.held() == 5).await;
    server.stub.release(|answers| answers.reverse());
    let expected = [
        "PUT_SUCCESS a 1",
        "PUT_SUCCESS b 2",
        "GET_ERROR c",
        "PUT_UPDATE a 3",
        "KEYRANGE_SUCCESS 0,f,127.0.0.1:1;",
        "GET_ERROR later",
        "PUT_SUCCESS d 4",
    ];
    assert_eq!(lines(&mut stream, 7).await, expected);
}

#[tokio::test]
async fn a_read_sees_the_writes_before_it_and_none_after_it() {
    let server = server(settings()).await;
    server.stub.hold();
    let mut stream = server.connect().await;
    stream.write_all(b"put x 1\nput k 1\nget k\nput k 2\nput y 1\nget k\n").await.unwrap();
    server.until("the writes before the read to be under way", |s| s.stub.held() == 2).await;
    assert_eq!(server.session(b"get other\n").await, "GET_ERROR other\n", "others do not wait");
    server.stub.release(|_| ());
    let got = lines(&mut stream, 6).await;
    assert_eq!(&got[2..], ["GET_SUCCESS k 1", "PUT_UPDATE k 2", "PUT_SUCCESS y 1", "GET_SUCCESS k 2"]);

    // A read whose answer comes later must not see a write behind it.
    stream.write_all(b"get later\nput later 1\n").await.unwrap();
    server.until("the read to be under way", |s| s.stub.held() == 1).await;
    server.stub.release(|_| ());
    assert_eq!(lines(&mut stream, 2).await, ["GET_ERROR later", "PUT_SUCCESS later 1"]);
}

#[tokio::test]
async fn what_was_sent_before_the_client_closed_its_half_is_answered() {
    let server = server(settings()).await;
    server.stub.hold();
    let mut stream = server.connect().await;
    stream.write_all(b"put k 1\nget k\nget k\nput half a li").await.unwrap();
    stream.shutdown().await.unwrap();
    server.until("the write to be under way", |s| s.stub.held() == 1).await;
    server.stub.release(|_| ());
    let mut answers = String::new();
    within(stream.read_to_string(&mut answers)).await.unwrap();
    assert_eq!(answers, "PUT_SUCCESS k 1\r\nGET_SUCCESS k 1\r\nGET_SUCCESS k 1\r\n");
}

/// A small generator, so that a failure can be repeated.
fn garbage(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let start: &[u8] = match seed % 7 {
        0 => b"put ",
        1 => b"putb 5 ",
        2 => b"req 1 ",
        3 => b"get \0\xff\xfe",
        4 => b"POST ",
        _ => b"",
    };
    let length = if seed.is_multiple_of(50) { 300_000 } else { random.usize(0..200) };
    let mut line = start.to_vec();
    line.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
    line
}

#[tokio::test]
async fn malformed_oversized_binary_and_half_sent_lines_harm_nobody() {
    let server = server(settings()).await;
    let mut good = server.connect().await;
    for round in 0..30 {
        for seed in round * 100..round * 100 + 100 {
            let mut bad = server.connect().await;
            // The server may hang up in the middle of it: that is its right.
            let _ = bad.write_all(&garbage(seed)).await;
            if seed % 3 == 0 {
                let _ = bad.write_all(b"\r\n").await;
            }
        }
        good.write_all(format!("put good {round}\n").as_bytes()).await.unwrap();
        let answer = lines(&mut good, 1).await;
        assert!(answer[0].ends_with(&format!(" good {round}")), "{answer:?}");
    }
    server.until("the bad connections to be gone", |s| s.port.shared.stats.open.load(Relaxed) == 1).await;
    server.still_serves().await;
}

#[tokio::test]
async fn one_connection_survives_thousands_of_bad_lines() {
    let server = server(settings()).await;
    let mut stream = server.connect().await;
    let (mut reader, mut writer) = stream.split();
    let write = async {
        for n in 0..3000 {
            let length = if n % 500 == 0 { 200_000 } else { n % 300 };
            let mut line = vec![b'!'; length + 1];
            line.extend_from_slice(b"\0\xff\r\n");
            writer.write_all(&line).await.unwrap();
        }
        writer.write_all(b"put k v\n").await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        while !got.ends_with(b"PUT_SUCCESS k v\r\n") {
            let mut piece = [0; 65536];
            let length = within(reader.read(&mut piece)).await.unwrap();
            assert!(length > 0, "the server hung up");
            got.extend_from_slice(&piece[..length]);
        }
        got
    };
    let ((), got) = tokio::join!(write, read);
    let failed = got.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"FAILED ")).count();
    assert_eq!(failed, 3000);
}

#[tokio::test]
async fn a_client_that_never_reads_is_bounded_and_delays_nobody() {
    let server = server(settings()).await;
    let value = "v".repeat(100_000);
    assert!(server.session(format!("put big {value}\n").as_bytes()).await.starts_with("PUT_SUCCESS big"));
    let mut greedy = server.connect().await;
    let requests = "get big\n".repeat(1000);
    let flood = async {
        loop {
            greedy.write_all(requests.as_bytes()).await.unwrap();
        }
    };
    // Once the server reads no more, the sockets' buffers fill and the flood stands still.
    tokio::select! {
        () = flood => {}
        () = async {
            let served = |s: &Server| (s.port.metrics())().lines().find(|l| l.contains("kind=\"get\"")).unwrap().to_owned();
            let mut before = String::new();
            let mut same = 0;
            while same < 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let now = served(&server);
                same = if now == before { same + 1 } else { 0 };
                before = now;
            }
            let count: u64 = before.split(' ').next_back().unwrap().parse().unwrap();
            assert!(count > 0 && count < 2000, "{count} replies of 100 kB were made for a client that takes none");
        } => {}
    }
    server.still_serves().await;

    // Bounded does not mean stuck: it gets everything once it reads.
    let mut piece = vec![0; 1 << 20];
    let mut got = 0;
    while got < 50_000_000 {
        got += within(greedy.read(&mut piece)).await.unwrap();
    }
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let server = server(Settings { bounds: Bounds { pending: 10, bytes: 1 << 20 }, ..settings() }).await;
    server.stub.hold();
    let mut stream = server.connect().await;
    let requests: String = (0..100).map(|n| format!("put k{n} v\n")).collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    server.until("ten requests to be under way", |s| s.stub.held() == 10).await;
    assert_eq!(server.session(b"get other\n").await, "GET_ERROR other\n");
    assert_eq!(server.stub.held(), 10);
    server.stub.release(|_| ());
    assert_eq!(lines(&mut stream, 100).await.len(), 100);
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so() {
    let server = server(Settings { max_connections: 2, ..settings() }).await;
    let (mut one, _two) = (server.connect().await, server.connect().await);
    one.write_all(b"get k\n").await.unwrap();
    assert_eq!(lines(&mut one, 1).await, ["GET_ERROR k"]);
    server.until("both connections to be served", |s| s.port.shared.stats.open.load(Relaxed) == 2).await;
    let mut three = server.connect().await;
    let mut answer = String::new();
    within(three.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "FAILED all 2 connections are taken: close some, try later, or raise --max-connections\r\n");
    drop(one);
    server.until("room again", |s| s.port.shared.stats.open.load(Relaxed) == 1).await;
    server.still_serves().await;
}

#[tokio::test]
async fn browsers_are_hung_up_on_and_redis_clients_served() {
    let server = server(settings()).await;
    assert_eq!(server.session(b"POST / HTTP/1.1\r\nput k v\r\n").await, "");
    assert_eq!(server.session(b"GET / HTTP/1.1\r\nHost: localhost\r\nput k v\r\n\r\n").await, "GET_ERROR / HTTP/1.1\n");
    assert_eq!(server.session(b"get k\n").await, "GET_ERROR k\n");
    let redis = server.session(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\nput k v\r\n").await;
    assert_eq!(redis, "$-1\n+PONG\n-ERR unknown command 'put', with args beginning with: 'k' 'v' \n");
    assert!(server.session(b"get k\n*1\r\n").await.contains("\nFAILED unknown request `*1`"));
}

#[tokio::test]
async fn draining_answers_what_is_under_way_and_takes_no_more() {
    let Server { port, stub } = server(settings()).await;
    let addr = port.addr();
    stub.hold();
    let (mut busy, mut idle) = (TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap());
    idle.write_all(b"get k\n").await.unwrap();
    assert_eq!(lines(&mut idle, 1).await, ["GET_ERROR k"]);
    busy.write_all(b"put k 1\n").await.unwrap();
    let start = Instant::now();
    while stub.held() < 1 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let draining = tokio::spawn(port.drain(PATIENCE));
    assert_eq!(within(idle.read(&mut [0; 10])).await.unwrap(), 0, "an idle connection is closed");
    assert!(TcpStream::connect(addr).await.is_err(), "no new one is taken");
    stub.release(|_| ());
    assert_eq!(lines(&mut busy, 1).await, ["PUT_SUCCESS k 1"]);
    assert_eq!(within(busy.read(&mut [0; 10])).await.unwrap(), 0);
    assert_eq!(within(draining).await.unwrap(), 0);
}

#[tokio::test]
async fn draining_has_an_end() {
    let Server { port, stub } = server(settings()).await;
    stub.hold();
    let mut stuck = TcpStream::connect(port.addr()).await.unwrap();
    stuck.write_all(b"put k 1\n").await.unwrap();
    let start = Instant::now();
    while stub.held() < 1 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(within(port.drain(Duration::from_millis(50))).await, 1);
}

#[tokio::test]
async fn any_bytes_travel_both_ways() {
    let server = server(settings()).await;
    let value: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut stream = server.connect().await;
    let key = b"k\r\n\0\xff";
    let head = format!("putb {} {}\r\n", key.len(), value.len());
    stream.write_all(&[head.as_bytes(), key, &value, b"\r\ngetb 5\r\n", key].concat()).await.unwrap();
    let (mut input, mut parser, mut found) = (BytesMut::new(), ReplyParser::new(), Vec::new());
    while found.len() < 2 {
        assert!(within(stream.read_buf(&mut input)).await.unwrap() > 0);
        while let (used, Some(reply)) = parser.next(&input).unwrap() {
            found.push((reply.word, reply.rest.to_vec()));
            bytes::Buf::advance(&mut input, used);
        }
    }
    assert_eq!(found[0].0, Word::PutbSuccess);
    assert_eq!(found[1].0, Word::GetbSuccess);
    assert!(found[1].1 == value, "the value came back changed");
}

#[tokio::test]
async fn scan_brings_a_page_after_the_writes_before_it() {
    let server = server(settings()).await;
    let page = |records: &str| {
        let body = format!("{} done\n{records}", "f".repeat(32));
        format!("SCAN_SUCCESS {}\n{body}\n", body.len())
    };
    let expected = format!(
        "PUT_SUCCESS a 1\nPUT_SUCCESS b 2\n{}{}{}GETB_ERROR\n",
        page("1 1\na1\n1 1\nb2\n"),
        page("1 1\nb2\n"),
        page("")
    );
    let asked = b"put a 1\nput b 2\nscan 0\nscan 00 1\na\nscan ff 1\nbgetb 1\nx";
    assert_eq!(server.session(asked).await.replace("\\n", "\n"), expected);
    server.stub.hold();
    let mut stream = server.connect().await;
    stream.write_all(b"scan 0\n").await.unwrap();
    assert_eq!(lines(&mut stream, 1).await[0], format!("SCAN_SUCCESS {}", page("1 1\na1\n1 1\nb2\n").len() - 17));
}

#[tokio::test]
async fn words_about_the_membership_are_passed_on_for_those_who_may_ask() {
    let here = server(settings()).await;
    let asked = b"leave\nremove h:1 force\nchange\nput k v\nadmin let-me-in cancel\nadmin let-me-out cancel\nleave now\nadmin x\n";
    let expected = "\
LEAVE_SUCCESS Leave { force: false }
REMOVE_SUCCESS Remove { node: \"h:1\", force: true }
CHANGE_SUCCESS Progress
PUT_SUCCESS k v
CANCEL_SUCCESS Cancel
CANCEL_ERROR this is not the server's --admin-token
FAILED `leave` is written `leave [force]`
FAILED `admin` is written `admin <token> <request>`, the request being leave, remove, rebalance, cancel, plan or change
";
    assert_eq!(here.session(asked).await, expected);
}

#[test]
fn a_client_of_another_machine_needs_the_token() {
    let replies = crate::replies::Replies::new();
    let (backend, me) = (super::Backend::Stub(super::stub::Stub::new(replies.clone())), replies.register());
    let mut session = super::session::Session::new(&settings(), false);
    session.received(b"leave\nadmin let-me-in leave\nchange\n");
    session.process(common::Time(1), &backend, me.conn());
    let said = String::from_utf8(session.output().to_vec()).unwrap();
    assert_eq!(
        said,
        "LEAVE_ERROR this is asked from another machine: send `admin <token> <request>`, with the server's --admin-token\r\n"
    );
    let mut got = Vec::new();
    let waker = std::task::Waker::noop();
    assert!(me.inbox().poll_drain(&mut std::task::Context::from_waker(waker), &mut got).is_ready());
    assert_eq!(got.len(), 2, "the token lets it in, and a question is free");
}
