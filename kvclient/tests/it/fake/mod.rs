//! A server that speaks the protocol and misbehaves as told.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // Each test file uses a part.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use common::blob::Blob;
use common::position::Position;
use common::retry::{FORGOTTEN, Known, RetryTable};
use common::text::{
    Answer, Dialect, Form, Limits, Parsed, Request, RequestParser, Whole, WriteRequest, encode, encode_page,
};
use common::{Entry, LogId, Op, Outcome};

/// How a request with a key is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Serve,
    Stopped,
    WriteLock,
    NotResponsible,
    ExecuteAndClose,
    ExecuteAndStaySilent,
    Forget,
}

#[derive(Default)]
pub struct State {
    pub map: BTreeMap<Vec<u8>, Vec<u8>>,
    retries: RetryTable,
    pub executed: u32,
    /// What happens to the next requests, by server; then they are served.
    pub plans: BTreeMap<String, VecDeque<Act>>,
    /// From now on, whatever the plan.
    pub always: Option<Act>,
    pub keyrange: String,
    pub keyrange_read: String,
    pub ecs: Option<String>,
    /// `server: request`, in order of arrival.
    pub seen: Vec<String>,
}

/// Some servers with one memory.
#[derive(Clone)]
pub struct Fake {
    pub addresses: Vec<String>,
    pub state: Arc<Mutex<State>>,
}

impl Fake {
    /// The first server coordinates everything, all of them answer reads.
    pub fn start(servers: usize) -> Fake {
        let state = Arc::new(Mutex::new(State::default()));
        let listeners: Vec<TcpListener> = (0..servers).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let fake = Fake { addresses: addresses.clone(), state };
        fake.coordinator(0);
        for (listener, address) in listeners.into_iter().zip(addresses) {
            let state = fake.state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, address) = (state.clone(), address.clone());
                    std::thread::spawn(move || Connection { state, address }.serve(stream));
                }
            });
        }
        fake
    }

    /// From now on this server coordinates everything.
    pub fn coordinator(&self, nth: usize) {
        let whole = |address: &String| format!("{},{},{address};", "0".repeat(32), "f".repeat(32));
        let mut state = self.state.lock().unwrap();
        state.keyrange = whole(&self.addresses[nth]);
        state.keyrange_read = self.addresses.iter().map(whole).collect();
    }

    pub fn plan(&self, nth: usize, acts: &[Act]) {
        self.state.lock().unwrap().plans.insert(self.addresses[nth].clone(), acts.iter().copied().collect());
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    pub fn seen(&self, word: &str) -> usize {
        self.with(|state| state.seen.iter().filter(|line| line.contains(word)).count())
    }
}

struct Connection {
    state: Arc<Mutex<State>>,
    address: String,
}

impl Connection {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut parser = RequestParser::new(Dialect::Uoft, Limits::default());
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        let mut buffer = [0; 65536];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            input.extend_from_slice(&buffer[..read]);
            loop {
                let (used, parsed) = parser.next(&input);
                let goes_on = match parsed {
                    Parsed::More => {
                        input.advance(used);
                        break;
                    }
                    Parsed::Request(request) => self.answer(&request, &mut output),
                    Parsed::Mistake(mistake) => {
                        say(&mut output, &Answer::Failed(&mistake.to_string()));
                        true
                    }
                    _ => true,
                };
                input.advance(used);
                if !goes_on {
                    drop(stream.shutdown(Shutdown::Both));
                    return;
                }
            }
            if stream.write_all(&output.split()).is_err() {
                return;
            }
        }
    }

    /// False: the connection is to be closed.
    fn answer(&self, request: &Request<'_>, out: &mut BytesMut) -> bool {
        let mut state = self.state.lock().unwrap();
        state.seen.push(format!("{}: {}", self.address, shown(request)));
        match request {
            Request::Keyrange => say(out, &Answer::Keyrange(&state.keyrange)),
            Request::KeyrangeRead => say(out, &Answer::KeyrangeRead(&state.keyrange_read)),
            Request::Ecs => match state.ecs.as_deref() {
                Some(addr) => say(out, &Answer::Ecs(addr)),
                None => say(out, &Answer::NoEcs("this server is standalone")),
            },
            Request::Status => say(out, &Answer::Status(r#"{"serving":true,"slots":[1,2]}"#)),
            Request::Admin(request) => say(out, &Answer::Admin { word: request.word(), done: true, text: "none" }),
            Request::Whole(whole) => {
                let text = match whole {
                    Whole::NumKeys => state.map.len().to_string().into_bytes(),
                    Whole::FirstKey(_) => state.map.keys().next().cloned().unwrap_or_default(),
                    Whole::LastKey(_) => state.map.keys().next_back().cloned().unwrap_or_default(),
                    Whole::NodeList => b"h:1,00000000000000aa,up;".to_vec(),
                    _ => b"{}".to_vec(),
                };
                let counted = matches!(whole, Whole::FirstKey(_) | Whole::LastKey(_));
                match counted && text.is_empty() {
                    true => say(out, &Answer::Told { word: whole.error(), text: None, counted: false }),
                    false => say(out, &Answer::Told { word: whole.success(), text: Some(&text), counted }),
                }
            }
            Request::Get { key, .. } => return self.get(&mut state, key, out),
            Request::Scan { at, after } => return self.scan(&mut state, *at, *after, out),
            Request::Write(write) => return self.write(&mut state, write, out),
        }
        true
    }

    fn act(&self, state: &mut State) -> Act {
        let planned = state.plans.get_mut(&self.address).and_then(VecDeque::pop_front);
        state.always.or(planned).unwrap_or(Act::Serve)
    }

    fn get(&self, state: &mut State, key: &[u8], out: &mut BytesMut) -> bool {
        match self.act(state) {
            Act::ExecuteAndClose => return false,
            Act::ExecuteAndStaySilent => {}
            Act::Serve | Act::Forget => match state.map.get(key) {
                Some(value) => say(out, &Answer::Value { key, value }),
                None => say(out, &Answer::Missing { key }),
            },
            other => refuse(out, other),
        }
        true
    }

    /// A ring of four slots.
    fn scan(&self, state: &mut State, at: Position, after: Option<&[u8]>, out: &mut BytesMut) -> bool {
        let slot = at.slot(4);
        match self.act(state) {
            Act::Serve | Act::Forget => {
                let records = state.map.iter().map(|(key, value)| (&key[..], &value[..]));
                let page = encode_page(
                    Position::last_of(slot, 4),
                    records
                        .filter(|(key, _)| Position::of(key).slot(4) == slot && after.is_none_or(|after| *key > after)),
                );
                say(out, &Answer::Page(&page));
            }
            Act::ExecuteAndClose => return false,
            Act::ExecuteAndStaySilent => {}
            other => refuse(out, other),
        }
        true
    }

    fn write(&self, state: &mut State, write: &WriteRequest<'_>, out: &mut BytesMut) -> bool {
        let act = self.act(state);
        match act {
            Act::Serve | Act::ExecuteAndClose | Act::ExecuteAndStaySilent => {
                let outcome = execute(state, write);
                if act == Act::ExecuteAndClose {
                    return false;
                }
                if act == Act::Serve {
                    let id = write.once.expect("kvclient's writes carry an id").id;
                    let old = state.retries.replaced(&id).map(|old| &old.0[..]);
                    match write.swap {
                        true => say(out, &Answer::Swapped { key: write.key, old }),
                        false => say(out, &Answer::Written { key: write.key, value: write.value, outcome }),
                    }
                }
            }
            Act::Forget => say(out, &Answer::Unknown { key: write.key, value: write.value, why: FORGOTTEN }),
            other => refuse(out, other),
        }
        true
    }
}

/// Exactly once.
fn execute(state: &mut State, write: &WriteRequest<'_>) -> Outcome {
    let once = write.once.expect("kvclient's writes carry an id");
    if let Known::Done(outcome) = state.retries.lookup(&once.id) {
        assert!(once.retry, "a request was repeated without saying so");
        return outcome;
    }
    state.executed += 1;
    let old = state.map.get(write.key).map(|old| Blob(old.clone().into()));
    let outcome = match write.value {
        Some(value) => match state.map.insert(write.key.to_vec(), value.to_vec()) {
            None => Outcome::Created,
            Some(_) => Outcome::Updated,
        },
        None if state.map.remove(write.key).is_some() => Outcome::Deleted,
        None => Outcome::Missing,
    };
    let op = match write.value {
        Some(value) if write.swap => Op::Swap { key: write.key.to_vec().into(), value: value.to_vec().into(), old },
        _ => Op::Noop,
    };
    state.retries.record_entry(&Entry { id: LogId::default(), op, outcome, request: Some(once.id) });
    outcome
}

fn refuse(out: &mut BytesMut, act: Act) {
    match act {
        Act::Stopped => say(out, &Answer::Stopped(Some("the slot waits for a lease"))),
        Act::WriteLock => say(out, &Answer::WriteLock),
        _ => say(out, &Answer::NotResponsible),
    }
}

fn say(out: &mut BytesMut, answer: &Answer<'_>) {
    encode(out, Dialect::Uoft, Form::Binary, answer);
}

fn shown(request: &Request<'_>) -> String {
    match request {
        Request::Get { key, .. } => format!("get {}", key.escape_ascii()),
        Request::Write(write) => {
            let word = if write.value.is_some() { "put" } else { "delete" };
            let again = if write.once.is_some_and(|once| once.retry) { " again" } else { "" };
            format!("{word} {}{again}", write.key.escape_ascii())
        }
        other => format!("{other:?}"),
    }
}
