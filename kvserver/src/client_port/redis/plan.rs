//! What a command about keys asks for: its arguments, checked and turned into reads and writes. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use common::blob::Blob;
use common::forward::What;
use common::resp::Args;
use common::text::Limits;
use common::update::{ExpireOnly, Expiry, Only, Update};

use super::numbers::integer;
use super::owed::{Shape, lasts};
use super::table::{Command, Run};

/// What is to be done.
#[derive(Debug)]
pub(super) enum Plan<'a> {
    /// Read the key's value.
    Read(&'a [u8], Shape),
    /// How long does the key last?
    Lasts(&'a [u8], Shape),
    /// Read all keys from argument 1 on.
    ReadAll(Shape),
    /// Write.
    Write(Bytes, What, Shape),
    /// Write several keys, all different.
    WriteAll(Vec<(Bytes, What)>, Shape),
}

/// Why not: the text of the error.
pub(super) type Wrong = Cow<'static, str>;

/// Keys of one command: each is a task of its own, with some hundred bytes of its own.
const MOST_KEYS: usize = 16 * 1024;

const SYNTAX: Wrong = Cow::Borrowed("ERR syntax error");
const NOT_INTEGER: Wrong = Cow::Borrowed("ERR value is not an integer or out of range");

/// What a command about keys asks for. None: it is about something else. `wall` tells the time, in milliseconds since the Unix
/// epoch.
pub(super) fn plan<'a>(
    command: &Command,
    args: &Args<'a>,
    wall: impl Fn() -> u64,
    limits: &Limits,
) -> Result<Option<Plan<'a>>, Wrong> {
    let key = args.get(1);
    let plan = match command.run {
        Run::Get => Plan::Read(key, Shape::Value),
        Run::Strlen => Plan::Read(key, Shape::Length),
        Run::Type => Plan::Read(key, Shape::Type),
        Run::GetRange => Plan::Read(key, Shape::Range(number(args.get(2))?, number(args.get(3))?)),
        Run::Exists if args.len() == 2 => Plan::Read(key, Shape::Exists),
        Run::Exists => Plan::ReadAll(Shape::Exists),
        Run::MGet => Plan::ReadAll(Shape::Values),
        Run::Lasts { millis, date } => Plan::Lasts(key, lasts(millis, date, wall())),
        Run::GetEx if args.len() == 2 => Plan::Read(key, Shape::Value),
        Run::GetEx => write(key, get_ex(args, wall())?, Shape::Old),
        Run::Set => set(args, wall)?,
        Run::SetEx { millis } => {
            let at = deadline(args.get(2), millis, false, wall(), command.name)?;
            write(key, store(args.get(3), Only::Always, Expiry::At(at)), Shape::Set)
        }
        Run::SetNx => write(key, store(args.get(2), Only::Missing, Expiry::Never), Shape::Changed),
        Run::GetSet => write(key, store(args.get(2), Only::Always, Expiry::Never), Shape::Old),
        Run::GetDel => write(key, What::Update(Update::Take), Shape::Old),
        Run::Append => write(key, What::Update(Update::Append(bytes(args.get(2)))), Shape::Number),
        Run::Increment { down, by } => write(key, increment(args, down, by)?, Shape::Number),
        Run::IncrByFloat => write(key, What::Update(Update::AddFloat(bytes(args.get(2)))), Shape::Number),
        Run::Expire { millis, date } => write(key, expire(args, millis, date, wall(), command.name)?, Shape::Changed),
        Run::Persist => write(key, What::Update(Update::Persist), Shape::Changed),
        Run::Del if args.len() > MOST_KEYS + 1 => return Err(too_many(args.len() - 1)),
        Run::Del => {
            let keys: BTreeSet<&[u8]> = args.from(1).collect();
            Plan::WriteAll(keys.into_iter().map(|key| (bytes(key), What::Delete)).collect(), Shape::Deleted)
        }
        Run::MSet if args.len().is_multiple_of(2) => {
            return Err("ERR wrong number of arguments for 'mset' command".into());
        }
        Run::MSet => {
            // Of a key that is named twice the last value counts.
            let pairs: BTreeMap<&[u8], &[u8]> =
                (1..args.len()).step_by(2).map(|at| (args.get(at), args.get(at + 1))).collect();
            Plan::WriteAll(pairs.into_iter().map(|(key, value)| put(key, value)).collect(), Shape::Stored)
        }
        _ => return Ok(None),
    };
    within(&plan, args, limits)?;
    Ok(Some(plan))
}

/// The store's limits: those of every kind of client; and how many keys one command may have.
fn within(plan: &Plan<'_>, args: &Args<'_>, limits: &Limits) -> Result<(), Wrong> {
    let keys = match plan {
        Plan::ReadAll(_) => args.len() - 1,
        Plan::WriteAll(all, _) => all.len(),
        Plan::Read(..) | Plan::Lasts(..) | Plan::Write(..) => 1,
    };
    if keys > MOST_KEYS {
        return Err(too_many(keys));
    }
    match plan {
        Plan::Read(key, _) | Plan::Lasts(key, _) => key_within(key, limits),
        Plan::ReadAll(_) => args.from(1).try_for_each(|key| key_within(key, limits)),
        Plan::Write(key, what, _) => key_within(key, limits).and_then(|()| value_within(what, limits)),
        Plan::WriteAll(all, _) => {
            all.iter().try_for_each(|(key, what)| key_within(key, limits).and_then(|()| value_within(what, limits)))
        }
    }
}

fn too_many(keys: usize) -> Wrong {
    format!("ERR {keys} keys in one command: at most {MOST_KEYS}; send several").into()
}

pub(super) fn key_within(key: &[u8], limits: &Limits) -> Result<(), Wrong> {
    let (length, limit) = (key.len(), limits.key);
    match length {
        0 => Err("ERR an empty key is not possible: keys have 1 byte or more".into()),
        _ if length > limit => Err(format!("ERR key of {length} bytes: at most {limit} (--max-key-bytes)").into()),
        _ => Ok(()),
    }
}

fn value_within(what: &What, limits: &Limits) -> Result<(), Wrong> {
    let length = match what {
        What::Put(value) => value.0.len(),
        What::Update(Update::Set { value, .. } | Update::Append(value)) => value.len(),
        What::Delete | What::Update(_) => 0,
    };
    let limit = limits.value;
    if length > limit {
        return Err(format!("ERR value of {length} bytes: at most {limit} (--max-value-bytes)").into());
    }
    Ok(())
}

fn bytes(value: &[u8]) -> Bytes {
    Bytes::copy_from_slice(value)
}

fn write<'a>(key: &[u8], what: What, shape: Shape) -> Plan<'a> {
    Plan::Write(bytes(key), what, shape)
}

/// Beyond this, keys and values have allocations of their own: one that is kept for longer would hold the others in memory.
pub(super) const LARGE: usize = crate::replica::SHARED;

/// The commonest write of all: key and value share an allocation, but for large values.
pub(super) fn put(key: &[u8], value: &[u8]) -> (Bytes, What) {
    if value.len() > LARGE {
        return (bytes(key), What::Put(Blob(bytes(value))));
    }
    let mut both = BytesMut::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(value);
    let mut value = both.freeze();
    (value.split_to(key.len()), What::Put(Blob(value)))
}

/// Several of them, of so many `bytes` together: all of them share an allocation.
pub(super) fn puts(pairs: &[(&[u8], &[u8])], bytes: usize) -> impl Iterator<Item = (Bytes, What)> {
    let mut all = BytesMut::with_capacity(bytes);
    for (key, value) in pairs {
        all.extend_from_slice(key);
        all.extend_from_slice(value);
    }
    let mut rest = all.freeze();
    pairs.iter().map(move |(key, value)| (rest.split_to(key.len()), What::Put(Blob(rest.split_to(value.len())))))
}

fn store(value: &[u8], only: Only, expiry: Expiry) -> What {
    What::Update(Update::Set { value: bytes(value), only, expiry })
}

fn number(text: &[u8]) -> Result<i64, Wrong> {
    integer(text).ok_or(NOT_INTEGER)
}

fn is(word: &[u8], other: &str) -> bool {
    word.eq_ignore_ascii_case(other.as_bytes())
}

/// What SET and GETEX have in common: the deadline that a word and a number give.
fn timed(word: &[u8], next: Option<&[u8]>, wall: u64, name: &str) -> Option<Result<u64, Wrong>> {
    let (millis, date) = match word {
        _ if is(word, "ex") => (false, false),
        _ if is(word, "px") => (true, false),
        _ if is(word, "exat") => (false, true),
        _ if is(word, "pxat") => (true, true),
        _ => return None,
    };
    Some(next.map_or(Err(SYNTAX), |text| deadline(text, millis, date, wall, name)))
}

/// A deadline that lies in the future as the client sees it: positive.
fn deadline(text: &[u8], millis: bool, date: bool, wall: u64, name: &str) -> Result<u64, Wrong> {
    let number = number(text)?;
    let invalid = || Cow::Owned(format!("ERR invalid expire time in '{name}' command"));
    if number <= 0 {
        return Err(invalid());
    }
    let at = moment(number, millis, date, wall).ok_or_else(invalid)?;
    Ok(u64::try_from(at).unwrap_or(0))
}

/// The milliseconds since the Unix epoch that a number means. None: they are too many.
fn moment(number: i64, millis: bool, date: bool, wall: u64) -> Option<i64> {
    let number = if millis { number } else { number.checked_mul(1000)? };
    if date { Some(number) } else { number.checked_add(i64::try_from(wall).ok()?) }
}

fn set<'a>(args: &Args<'a>, wall: impl Fn() -> u64) -> Result<Plan<'a>, Wrong> {
    let (mut only, mut get, mut expiry) = (None, false, None);
    let mut at = 3;
    while at < args.len() {
        let word = args.get(at);
        let next = (at + 1 < args.len()).then(|| args.get(at + 1));
        match word {
            _ if is(word, "nx") && only != Some(Only::Present) => only = Some(Only::Missing),
            _ if is(word, "xx") && only != Some(Only::Missing) => only = Some(Only::Present),
            _ if is(word, "get") => get = true,
            _ if is(word, "keepttl") && matches!(expiry, None | Some(Expiry::Keep)) => expiry = Some(Expiry::Keep),
            _ => match timed(word, next, wall(), "set").filter(|_| expiry.is_none()) {
                Some(deadline) => {
                    expiry = Some(Expiry::At(deadline?));
                    at += 1;
                }
                None => return Err(SYNTAX),
            },
        }
        at += 1;
    }
    let (key, value) = (args.get(1), args.get(2));
    if only.is_none() && !get && expiry.is_none() {
        let (key, what) = put(key, value);
        return Ok(Plan::Write(key, what, Shape::Set));
    }
    let what = store(value, only.unwrap_or(Only::Always), expiry.unwrap_or(Expiry::Never));
    Ok(write(key, what, if get { Shape::Old } else { Shape::Set }))
}

fn get_ex(args: &Args<'_>, wall: u64) -> Result<What, Wrong> {
    let word = args.get(2);
    let next = (args.len() > 3).then(|| args.get(3));
    if is(word, "persist") && args.len() == 3 {
        return Ok(What::Update(Update::Persist));
    }
    match timed(word, next, wall, "getex") {
        Some(at) if args.len() <= 4 => Ok(What::Update(Update::Expire { at: at?, only: ExpireOnly::Always })),
        _ => Err(SYNTAX),
    }
}

fn increment(args: &Args<'_>, down: bool, by: bool) -> Result<What, Wrong> {
    let number = if by { number(args.get(2))? } else { 1 };
    if down && number == i64::MIN {
        return Err("ERR decrement would overflow".into());
    }
    Ok(What::Update(Update::Add(if down { -number } else { number })))
}

fn expire(args: &Args<'_>, millis: bool, date: bool, wall: u64, name: &str) -> Result<What, Wrong> {
    let (mut without, mut with, mut later, mut earlier) = (false, false, false, false);
    for word in args.from(3) {
        match word {
            _ if is(word, "nx") => without = true,
            _ if is(word, "xx") => with = true,
            _ if is(word, "gt") => later = true,
            _ if is(word, "lt") => earlier = true,
            _ => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(word)).into()),
        }
    }
    if without && (with || later || earlier) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if later && earlier {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let number = number(args.get(2))?;
    let invalid = || Cow::Owned(format!("ERR invalid expire time in '{name}' command"));
    let at = moment(number, millis, date, wall).ok_or_else(invalid)?;
    let only = match (without, with, later, earlier) {
        (true, ..) => ExpireOnly::NoExpiry,
        (_, _, true, _) => ExpireOnly::Later,
        (_, true, _, true) => ExpireOnly::HasExpiryEarlier,
        (_, _, _, true) => ExpireOnly::Earlier,
        (_, true, ..) => ExpireOnly::HasExpiry,
        _ => ExpireOnly::Always,
    };
    // A date before 1970 is as past as any other.
    Ok(What::Update(Update::Expire { at: u64::try_from(at).unwrap_or(0), only }))
}
