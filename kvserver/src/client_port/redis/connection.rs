//! Commands about the connection itself: PING, HELLO, AUTH, CLIENT and their like.

use bytes::Bytes;
use common::resp::{Args, Out, Proto};

use super::numbers::integer;
use super::table::Run;
use super::{Call, Session, State, server};
use crate::client_port::backend::Serves;

/// The version of Redis whose commands these are: clients choose by it what they may send.
pub(super) const REDIS_VERSION: &str = "7.4.0";

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

impl Session {
    /// What needs no key.
    pub(super) fn at_once<B: Serves>(&mut self, run: Run, call: &Call<'_, B>) {
        let args = &call.args;
        match run {
            Run::Ping if args.len() > 2 => self.say(|out| out.error(&super::wrong_arity("ping"))),
            Run::Ping if args.len() == 2 => self.say(|out| out.bulk(args.get(1))),
            Run::Ping => self.say(|out| out.simple("PONG")),
            Run::Echo => self.say(|out| out.bulk(args.get(1))),
            Run::Select => {
                let answer = match integer(args.get(1)) {
                    Some(0) => Ok(()),
                    Some(_) => Err("ERR DB index is out of range"),
                    None => Err("ERR value is not an integer or out of range"),
                };
                self.ok_or(answer);
            }
            Run::Auth => {
                let answer = match args.len() {
                    2 => Err(NO_PASSWORD),
                    3 if args.get(1) == b"default" => Ok(()),
                    3 => Err(WRONG_PASSWORD),
                    _ => Err("ERR syntax error"),
                };
                self.ok_or(answer);
            }
            Run::Hello => self.hello(call),
            Run::Quit => {
                self.ok_or(Ok(()));
                self.close();
            }
            Run::Reset => {
                (self.redis.proto, self.redis.name) = (Proto::Two, Bytes::new());
                self.say(|out| out.simple("RESET"));
            }
            Run::Client => self.client(call),
            run => {
                let max_connections = self.redis.max_connections;
                self.say(|out| server::at_once(run, call, max_connections, out));
            }
        }
    }

    fn ok_or(&mut self, answer: Result<(), &str>) {
        self.say(|out| match answer {
            Ok(()) => out.ok(),
            Err(why) => out.error(why),
        });
    }

    /// HELLO [version [AUTH user password] [SETNAME name]]: everything is checked before anything is taken.
    fn hello<B: Serves>(&mut self, call: &Call<'_, B>) {
        match hello(&call.args, self.redis.proto) {
            Err(why) => self.say(|out| out.error(&why)),
            Ok((proto, name)) => {
                self.redis.proto = proto;
                if let Some(name) = name {
                    self.redis.name = name;
                }
                let id = id(call.conn);
                self.say(|out| greeting(id, out));
            }
        }
    }

    fn client<B: Serves>(&mut self, call: &Call<'_, B>) {
        let args = &call.args;
        let word = args.get(1).to_ascii_lowercase();
        let expects = |count: usize| {
            let name = String::from_utf8_lossy(&word).into_owned();
            if args.len() == count { Ok(()) } else { Err(super::wrong_arity(&format!("client|{name}"))) }
        };
        let checked = match &word[..] {
            b"id" | b"getname" | b"info" | b"help" => expects(2),
            b"setname" | b"no-evict" | b"no-touch" | b"reply" => expects(3),
            b"setinfo" => expects(4),
            _ => Ok(()),
        };
        if let Err(why) = checked {
            return self.say(|out| out.error(&why));
        }
        match &word[..] {
            b"id" => self.say(|out| out.integer(id(call.conn))),
            b"getname" => {
                let name = self.redis.name.clone();
                self.say(|out| out.bulk_or_null(Some(&name[..]).filter(|name| !name.is_empty())));
            }
            b"setname" => {
                let answer = if is_name(args.get(2)) { Ok(()) } else { Err(BAD_NAME) };
                if answer.is_ok() {
                    self.redis.name = Bytes::copy_from_slice(args.get(2));
                }
                self.ok_or(answer);
            }
            b"setinfo" => self.set_info(args),
            b"no-evict" | b"no-touch" => self.ok_or(on_or_off(args.get(2))),
            b"reply" if args.get(2).eq_ignore_ascii_case(b"on") => self.ok_or(Ok(())),
            b"reply" => {
                self.say(|out| out.error("ERR CLIENT REPLY is not supported but for ON: every command is answered"));
            }
            b"info" | b"list" => {
                let line = self.redis.line(call);
                self.say(|out| out.verbatim(&line));
            }
            _ => {
                let why = server::unknown_subcommand(args.get(1), "CLIENT");
                self.say(|out| out.error_bytes(&why));
            }
        }
    }

    fn set_info(&mut self, args: &Args<'_>) {
        let (option, value) = (args.get(2), args.get(3));
        if !is_name(value) {
            let option = String::from_utf8_lossy(option).into_owned();
            return self.say(|out| {
                out.error(&format!("ERR {option} cannot contain spaces, newlines or special characters."));
            });
        }
        let place = match option.to_ascii_lowercase().as_slice() {
            b"lib-name" => &mut self.redis.library.0,
            b"lib-ver" => &mut self.redis.library.1,
            _ => {
                let why = [b"ERR Unrecognized option '", option, b"'"].concat();
                return self.say(|out| out.error_bytes(&why));
            }
        };
        *place = Bytes::copy_from_slice(value);
        self.ok_or(Ok(()));
    }
}

impl State {
    /// As CLIENT INFO tells a connection.
    fn line<B: Serves>(&self, call: &Call<'_, B>) -> String {
        let age = self.began.map_or(0, |began| call.now.since(began).as_secs());
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        format!(
            "id={} addr={} laddr={} fd=0 name={} age={age} idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 watch=0 qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=client|info \
             user=default redir=-1 resp={} lib-name={} lib-ver={}\n",
            id(call.conn),
            self.addr.map_or_else(String::new, |addr| addr.to_string()),
            call.backend.facts().addr,
            text(&self.name),
            if self.proto == Proto::Three { 3 } else { 2 },
            text(&self.library.0),
            text(&self.library.1),
        )
    }
}

/// Never 0, as in Redis.
fn id(conn: u32) -> i64 {
    i64::from(conn) + 1
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn on_or_off(word: &[u8]) -> Result<(), &'static str> {
    if word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off") { Ok(()) } else { Err("ERR syntax error") }
}

fn hello(args: &Args<'_>, now: Proto) -> Result<(Proto, Option<Bytes>), String> {
    if args.len() == 1 {
        return Ok((now, None));
    }
    let proto = match integer(args.get(1)) {
        Some(2) => Proto::Two,
        Some(3) => Proto::Three,
        Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        None => return Err("ERR Protocol version is not an integer or out of range".into()),
    };
    let (mut at, mut name) = (2, None);
    while at < args.len() {
        let (option, left) = (args.get(at), args.len() - at - 1);
        if option.eq_ignore_ascii_case(b"auth") && left >= 2 {
            // Without a password the default user has any.
            if args.get(at + 1) != b"default" {
                return Err(WRONG_PASSWORD.into());
            }
            at += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && left >= 1 {
            if !is_name(args.get(at + 1)) {
                return Err(BAD_NAME.into());
            }
            name = Some(Bytes::copy_from_slice(args.get(at + 1)));
            at += 2;
        } else {
            return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option)));
        }
    }
    Ok((proto, name))
}

fn greeting(id: i64, out: &mut Out<'_>) {
    let proto = if out.proto() == Proto::Three { 3 } else { 2 };
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(REDIS_VERSION.as_bytes());
    out.bulk(b"proto");
    out.integer(proto);
    out.bulk(b"id");
    out.integer(id);
    // Any server takes any key: to a client there is only this one.
    out.bulk(b"mode");
    out.bulk(b"standalone");
    out.bulk(b"role");
    out.bulk(b"master");
    out.bulk(b"modules");
    out.array(0);
}
