//! Text clients: what each request starts, and what its answer repeats.

use bytes::Bytes;
use common::Time;
use common::position::Position;
use common::text::{AdminRequest, Answer, Form, Parsed, Request, Whole, WriteRequest, encode};
use xxhash_rust::xxh3::xxh3_64;

use super::backend::Serves;
use super::pending::{Asked, EVERY_KEY, What};
use super::session::{PARKED, Session};
use super::together::{One, Together};
use crate::replica::{Read, Refusal, Reply, Scan, Token, Told, Write, WriteOp};

/// What an answer repeats of its request, and its form.
#[derive(Debug)]
pub(super) struct Echo {
    /// Empty in the binary form, whose answers repeat nothing.
    key: Bytes,
    /// As `key`; None for a read and for a delete.
    value: Option<Bytes>,
    pub(super) form: Form,
    /// Whether the client is one of ours, to whom a refusal says why.
    explain: bool,
}

impl Echo {
    /// Of a request whose answer repeats nothing.
    pub(super) fn nothing(form: Form) -> Echo {
        Echo { key: Bytes::new(), value: None, form, explain: form == Form::Binary }
    }

    pub(super) fn answer<'a>(&'a self, what: What, reply: &'a Reply) -> Answer<'a> {
        let (key, value) = (&self.key, self.value.as_deref());
        match reply {
            Reply::Written(outcome) => Answer::Written { key, value, outcome: *outcome },
            Reply::Value(Some(value)) => Answer::Value { key, value },
            Reply::Value(None) => Answer::Missing { key },
            Reply::Page(text) if what == What::Admin => {
                let (done, text) = (text.first() == Some(&b'+'), text.get(1..).unwrap_or_default());
                let word = std::str::from_utf8(key).unwrap_or_default();
                Answer::Admin { word, done, text: std::str::from_utf8(text).unwrap_or_default() }
            }
            Reply::Page(page) => Answer::Page(page),
            Reply::Swapped(old) => Answer::Swapped { key, old: old.as_deref() },
            Reply::Told(told) => self.told(told),
            // Only asked by the server itself and by Redis clients, under tokens of their own.
            Reply::Extent(_) | Reply::Updated(_) | Reply::Lasts(_) | Reply::Keys(_) => {
                Answer::Failed("an answer to another question")
            }
            Reply::Refused(refusal) => refused(*refusal, self.explain),
            Reply::Unknown(why) if what == What::Swap => {
                Answer::SwapUnknown { key, value: value.unwrap_or_default(), why }
            }
            Reply::Unknown(why) => Answer::Unknown { key, value, why },
        }
    }

    fn told<'a>(&self, told: &'a Told) -> Answer<'a> {
        let text = told.text.as_deref();
        match text {
            Some(why) if told.word == Told::FAILED => Answer::Failed(std::str::from_utf8(why).unwrap_or_default()),
            _ => Answer::Told { word: told.word, text, counted: told.counted },
        }
    }
}

impl Session {
    /// Starts as many requests as the bounds allow, and returns how many bytes are done with.
    pub(super) fn lines(&mut self, input: &[u8], now: Time, backend: &impl Serves, conn: u32) -> usize {
        let (mut at, mut run) = (0, Together::new());
        loop {
            if run.is_empty() && !self.may_start() {
                return at;
            }
            let (used, parsed) = self.parser.next(&input[at..]);
            if let Parsed::Request(Request::Get { key, form }) = parsed
                && self.pending.is_empty()
            {
                run.push(One { from: at, key, what: form });
                at += used;
                if run.is_full()
                    && let Some(back) = self.start_reads(&mut run, at, now, backend, conn)
                {
                    self.parser.rewind();
                    return back;
                }
                continue;
            }
            if !run.is_empty()
                && let Some(back) = self.start_reads(&mut run, at, now, backend, conn)
            {
                self.parser.rewind();
                return back;
            }
            match parsed {
                Parsed::More => return at + used,
                Parsed::Skipped => {}
                Parsed::Request(request) => {
                    self.held = !self.start(&request, now, backend, conn);
                    if self.held {
                        return at;
                    }
                    self.moved += 1;
                }
                Parsed::Mistake(mistake) => {
                    self.counts.mistakes += 1;
                    self.answer(Form::Text, &Answer::Failed(&mistake.to_string()));
                }
                Parsed::Close => self.close(),
            }
            at += used;
        }
    }

    /// Starts the reads of a run, and says where to go on if that is not behind it, at `end`.
    fn start_reads(
        &mut self,
        run: &mut Together<'_, Form>,
        end: usize,
        now: Time,
        backend: &impl Serves,
        conn: u32,
    ) -> Option<usize> {
        let (all, positions) = run.take();
        for (get, position) in all.into_iter().zip(positions) {
            if !self.may_start() {
                return Some(get.from);
            }
            self.held = !self.get(get.key, Some(position), get.what, now, backend, conn);
            if self.held {
                return Some(get.from);
            }
            self.moved += 1;
        }
        (!self.may_start()).then_some(end)
    }

    /// Starts a request; false if it has to wait for an earlier one.
    fn start(&mut self, request: &Request<'_>, now: Time, backend: &impl Serves, conn: u32) -> bool {
        match request {
            Request::Get { key, form } => return self.get(key, None, *form, now, backend, conn),
            Request::Write(write) => return self.write(write, now, backend, conn),
            Request::Scan { at, after } => return self.scan(*at, *after, now, backend, conn),
            Request::Whole(whole) => return self.whole(whole, backend, conn),
            Request::Ecs => match backend.ecs() {
                Ok(addr) => self.answer(Form::Text, &Answer::Ecs(&addr)),
                Err(why) => self.answer(Form::Text, &Answer::NoEcs(why)),
            },
            Request::Admin(request) => self.admin(request, backend, conn),
            Request::Status => self.answer(Form::Text, &Answer::Status(&backend.status())),
            Request::Keyrange | Request::KeyrangeRead if !backend.serving() => {
                self.answer(Form::Text, &Answer::Stopped(None));
            }
            Request::Keyrange => self.answer(Form::Text, &Answer::Keyrange(&backend.keyrange())),
            Request::KeyrangeRead => self.answer(Form::Text, &Answer::KeyrangeRead(&backend.keyrange_read())),
        }
        self.counts.others += 1;
        true
    }

    /// About the membership: passed on if this client may ask.
    fn admin(&mut self, request: &AdminRequest<'_>, backend: &impl Serves, conn: u32) {
        let word = request.word();
        let known = |token: &[u8]| self.admin_token.as_deref().is_some_and(|own| same(own.as_bytes(), token));
        let text = match request.token {
            Some(token) if !known(token) => "this is not the server's --admin-token",
            None if !self.trusted && !request.is_question() => {
                "this is asked from another machine: send `admin <token> <request>`, with the server's --admin-token"
            }
            _ => {
                let token = Token { conn, index: self.pending.next_index() };
                self.pending.push(Asked {
                    hash: u64::MAX,
                    what: What::Admin,
                    echo: Echo {
                        key: Bytes::from_static(word.as_bytes()),
                        value: None,
                        form: Form::Text,
                        explain: true,
                    },
                    cost: 0,
                });
                backend.wish(request.wish.clone(), token);
                return;
            }
        };
        self.answer(Form::Text, &Answer::Admin { word, done: false, text });
    }

    fn get(
        &mut self,
        key: &[u8],
        at: Option<Position>,
        form: Form,
        now: Time,
        backend: &impl Serves,
        conn: u32,
    ) -> bool {
        let hash = if self.pending.waiting() == 0 { 0 } else { xxh3_64(key) };
        if self.pending.conflicts(What::Read, hash) {
            return false;
        }
        self.counts.gets += 1;
        let explain = form == Form::Binary;
        let token = Token { conn, index: self.pending.next_index() };
        let later = backend.read(now, key, at, token, |read| {
            let answer = match read {
                Read::Value(value) => Answer::Value { key, value },
                Read::Missing => Answer::Missing { key },
                Read::Refused(refusal) => refused(refusal, explain),
                Read::Later | Read::Lasts(_) => return true,
            };
            self.answer(form, &answer);
            false
        });
        if later {
            let (hash, cost) = (xxh3_64(key), key.len() + PARKED);
            let key = repeated(form, key);
            self.pending.push(Asked { hash, what: What::Read, echo: Echo { key, value: None, form, explain }, cost });
        }
        true
    }

    /// A page may hold any key: it waits for every earlier request that is under way. Walks are rare.
    fn scan(&mut self, at: Position, after: Option<&[u8]>, now: Time, backend: &impl Serves, conn: u32) -> bool {
        if self.pending.waiting() > 0 {
            return false;
        }
        self.counts.gets += 1;
        match backend.scan(now, at, after, Token { conn, index: self.pending.next_index() }) {
            Scan::Page(page) => self.answer(Form::Binary, &Answer::Page(&page)),
            Scan::Refused(refusal) => self.answer(Form::Binary, &refused(refusal, true)),
            Scan::Later => self.pending.push(Asked {
                hash: EVERY_KEY,
                what: What::Read,
                echo: Echo::nothing(Form::Binary),
                cost: after.map_or(0, <[u8]>::len) + PARKED,
            }),
        }
        true
    }

    /// Counts what earlier requests of the connection have written: it waits for them, as a scan does.
    fn whole(&mut self, whole: &Whole<'_>, backend: &impl Serves, conn: u32) -> bool {
        if self.pending.waiting() > 0 {
            return false;
        }
        self.counts.others += 1;
        backend.question(whole, Token { conn, index: self.pending.next_index() });
        let echo = Echo::nothing(Form::Binary);
        self.pending.push(Asked { hash: EVERY_KEY, what: What::Read, echo, cost: 0 });
        true
    }

    fn write(&mut self, write: &WriteRequest<'_>, now: Time, backend: &impl Serves, conn: u32) -> bool {
        let hash = xxh3_64(write.key);
        if self.pending.conflicts(What::Write, hash) {
            return false;
        }
        self.counts.writes += 1;
        let (key, value) = (Bytes::copy_from_slice(write.key), write.value.map(Bytes::copy_from_slice));
        let token = Token { conn, index: self.pending.next_index() };
        self.pending.push(Asked {
            hash,
            what: if write.swap { What::Swap } else { What::Write },
            echo: Echo {
                key: if write.form == Form::Text { key.clone() } else { Bytes::new() },
                value: value.as_ref().map(|value| if write.form == Form::Text { value.clone() } else { Bytes::new() }),
                form: write.form,
                explain: write.form == Form::Binary || write.once.is_some(),
            },
            cost: write.key.len() + write.value.map_or(0, <[u8]>::len),
        });
        let op = value.map_or(WriteOp::Delete, if write.swap { WriteOp::Swap } else { WriteOp::Put });
        let (request, retry) = write.once.map_or((None, false), |once| (Some(once.id), once.retry));
        backend.write(now, Write { key, op, request, retry }, token);
        true
    }

    /// Answers a request behind all those before it.
    fn answer(&mut self, form: Form, answer: &Answer<'_>) {
        let dialect = self.dialect;
        if self.pending.is_empty() {
            encode(self.out.end(), dialect, form, answer);
        } else {
            self.pending.encoded(|out| encode(out, dialect, form, answer));
        }
    }
}

/// Compares in a time that does not tell how much is right.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(one.len() ^ other.len(), |all, (a, b)| all | usize::from(a ^ b));
    differing == 0
}

fn repeated(form: Form, key: &[u8]) -> Bytes {
    if form == Form::Text { Bytes::copy_from_slice(key) } else { Bytes::new() }
}

/// A refusal as an answer; `explain` adds the reason, which the courses' clients do not expect.
pub(super) fn refused<'a>(refusal: Refusal, explain: bool) -> Answer<'a> {
    match refusal {
        Refusal::NotResponsible => Answer::NotResponsible,
        Refusal::WriteLocked => Answer::WriteLock,
        Refusal::Unavailable(why) => Answer::Stopped(explain.then_some(why)),
    }
}
