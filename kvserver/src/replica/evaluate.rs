//! What becomes of a key, and what the client is told (W3): conditions and sums, evaluated once, at the coordinator.
//!
//! Pure, and blind to where the record comes from: the caller gives the newest one, committed or not, and decides whether
//! its deadline has passed. The answers and the texts of mistakes are those of Redis 7.

use bytes::Bytes;
use common::extended::Extended;
use common::update::{Becomes, ExpireOnly, Expiry, Only, Update, Updated, Wrong};

use crate::storage::map::Held;

/// What an update comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Evaluated {
    pub(super) becomes: Becomes,
    pub(super) told: Updated,
}

/// Evaluates `update` against the key's newest record at the wall time `now` (in milliseconds, if it is known); no value may
/// be longer than `longest`.
pub(super) fn evaluate(update: Update, held: Option<Held<'_>>, now: Option<u64>, longest: usize) -> Evaluated {
    let gone = |at: u64| now.is_some_and(|now| at <= now);
    let done = |becomes| Evaluated { becomes, told: Updated::Done { old: copied(held) } };
    let unchanged = || Evaluated { becomes: Becomes::Same, told: Updated::Unchanged { old: copied(held) } };
    let removed = || done(if held.is_some() { Becomes::Gone } else { Becomes::Same });
    match update {
        Update::Set { only: Only::Missing, .. } if held.is_some() => unchanged(),
        Update::Set { only: Only::Present, .. } if held.is_none() => unchanged(),
        Update::Set { expiry: Expiry::At(at), .. } if gone(at) => removed(),
        Update::Set { value, expiry, .. } => done(Becomes::Value { value, until: until(expiry, held) }),
        Update::Take if held.is_none() => unchanged(),
        Update::Take => done(Becomes::Gone),
        Update::Add(by) => computed(held, add(held, by)),
        Update::AddFloat(by) => computed(held, add_float(held, &by)),
        Update::Append(end) => computed(held, append(held, &end, longest)),
        Update::Expire { at, only } if held.is_some_and(|held| applies(only, held.until, at)) => {
            if gone(at) {
                removed()
            } else {
                done(Becomes::Lasting { until: Some(at) })
            }
        }
        Update::Persist if held.is_some_and(|held| held.until.is_some()) => done(Becomes::Lasting { until: None }),
        Update::Expire { .. } | Update::Persist => unchanged(),
    }
}

fn copied(held: Option<Held<'_>>) -> Option<Bytes> {
    held.map(|held| Bytes::copy_from_slice(held.value))
}

fn until(expiry: Expiry, held: Option<Held<'_>>) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => held.and_then(|held| held.until),
        Expiry::At(at) => Some(at),
    }
}

/// Without a deadline a key counts as one that lasts for ever.
fn applies(only: ExpireOnly, until: Option<u64>, at: u64) -> bool {
    match only {
        ExpireOnly::Always => true,
        ExpireOnly::NoExpiry => until.is_none(),
        ExpireOnly::HasExpiry => until.is_some(),
        ExpireOnly::Later => until.is_some_and(|until| at > until),
        ExpireOnly::Earlier => until.is_none_or(|until| at < until),
        ExpireOnly::HasExpiryEarlier => until.is_some_and(|until| at < until),
    }
}

/// A new value in the place of the old one; the deadline stays. None: there is nothing to change.
fn computed(held: Option<Held<'_>>, result: Result<(Option<Bytes>, Updated), Wrong>) -> Evaluated {
    match result {
        Ok((Some(value), told)) => {
            Evaluated { becomes: Becomes::Value { value, until: until(Expiry::Keep, held) }, told }
        }
        Ok((None, told)) => Evaluated { becomes: Becomes::Same, told },
        Err(wrong) => Evaluated { becomes: Becomes::Same, told: Updated::Wrong(wrong) },
    }
}

fn add(held: Option<Held<'_>>, by: i64) -> Result<(Option<Bytes>, Updated), Wrong> {
    let value = held.map_or(Some(0), |held| integer(held.value)).ok_or(Wrong::NotInteger)?;
    let sum = value.checked_add(by).ok_or(Wrong::Overflow)?;
    Ok((Some(sum.to_string().into()), Updated::Number(sum)))
}

/// An integer in the one form in which it is written: no plus, no leading zeros, no blanks, no `-0`.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    std::str::from_utf8(text).ok().filter(|_| canonical)?.parse().ok()
}

fn add_float(held: Option<Held<'_>>, by: &[u8]) -> Result<(Option<Bytes>, Updated), Wrong> {
    let value = held.map_or(Some(Extended::ZERO), |held| Extended::parse(held.value)).ok_or(Wrong::NotFloat)?;
    let by = Extended::parse(by).ok_or(Wrong::NotFloat)?;
    let sum = value.plus(by).and_then(Extended::text).ok_or(Wrong::NotFinite)?;
    let sum = Bytes::from(sum);
    Ok((Some(sum.clone()), Updated::Text(sum)))
}

fn append(held: Option<Held<'_>>, end: &[u8], longest: usize) -> Result<(Option<Bytes>, Updated), Wrong> {
    let start = held.map_or(&[][..], |held| held.value);
    let length = start.len() + end.len();
    if length > longest {
        return Err(Wrong::TooLong);
    }
    // Nothing added to a key that is there changes nothing; to one that is not, it makes an empty value.
    let value = (held.is_none() || !end.is_empty()).then(|| Bytes::from([start, end].concat()));
    Ok((value, Updated::Length(length as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1000;

    fn held(value: &str, until: Option<u64>) -> Option<Held<'_>> {
        Some(Held { value: value.as_bytes(), until })
    }

    fn of(update: Update, record: Option<Held<'_>>) -> (Becomes, Updated) {
        let Evaluated { becomes, told } = evaluate(update, record, Some(NOW), 10);
        (becomes, told)
    }

    fn value(value: &str, until: Option<u64>) -> Becomes {
        Becomes::Value { value: value.to_owned().into(), until }
    }

    fn done(old: Option<&'static str>) -> Updated {
        Updated::Done { old: old.map(Bytes::from) }
    }

    fn unchanged(old: Option<&'static str>) -> (Becomes, Updated) {
        (Becomes::Same, Updated::Unchanged { old: old.map(Bytes::from) })
    }

    #[test]
    fn a_set_asks_first_and_says_what_was_there() {
        let set = |only, expiry| Update::Set { value: "v".into(), only, expiry };
        let old = || held("o", Some(5000));
        assert_eq!(of(set(Only::Always, Expiry::Never), old()), (value("v", None), done(Some("o"))));
        assert_eq!(of(set(Only::Always, Expiry::Keep), old()), (value("v", Some(5000)), done(Some("o"))));
        assert_eq!(of(set(Only::Always, Expiry::Keep), None), (value("v", None), done(None)));
        assert_eq!(of(set(Only::Present, Expiry::At(2000)), old()), (value("v", Some(2000)), done(Some("o"))));
        assert_eq!(of(set(Only::Present, Expiry::Never), None), unchanged(None));
        assert_eq!(of(set(Only::Missing, Expiry::Never), old()), unchanged(Some("o")));
        assert_eq!(of(set(Only::Missing, Expiry::Never), None), (value("v", None), done(None)));
        assert_eq!(of(set(Only::Always, Expiry::At(NOW)), old()), (Becomes::Gone, done(Some("o"))));
        assert_eq!(of(set(Only::Always, Expiry::At(NOW)), None), (Becomes::Same, done(None)));
        assert_eq!(of(Update::Take, old()), (Becomes::Gone, done(Some("o"))));
        assert_eq!(of(Update::Take, None), unchanged(None));
    }

    #[test]
    fn sums_keep_the_deadline_and_refuse_what_is_no_number() {
        let add = |by, text| of(Update::Add(by), text);
        assert_eq!(add(5, None), (value("5", None), Updated::Number(5)));
        assert_eq!(add(-3, held("1", Some(5000))), (value("-2", Some(5000)), Updated::Number(-2)));
        let max = i64::MAX.to_string();
        for (text, by, wrong) in [
            (max.as_str(), 1, Wrong::Overflow),
            ("-9223372036854775808", -1, Wrong::Overflow),
            ("9223372036854775808", 0, Wrong::NotInteger),
            ("", 1, Wrong::NotInteger),
            ("+1", 1, Wrong::NotInteger),
            ("01", 1, Wrong::NotInteger),
            ("-0", 1, Wrong::NotInteger),
            (" 1", 1, Wrong::NotInteger),
            ("1 ", 1, Wrong::NotInteger),
            ("1.0", 1, Wrong::NotInteger),
            ("-", 1, Wrong::NotInteger),
        ] {
            assert_eq!(add(by, held(text, None)), (Becomes::Same, Updated::Wrong(wrong)), "{text:?}");
        }
        assert_eq!(add(1, held("-1", None)).0, value("0", None));
        let float = |by: &'static str, text| of(Update::AddFloat(by.into()), text);
        assert_eq!(float("0.1", held("10.50", Some(5000))), (value("10.6", Some(5000)), Updated::Text("10.6".into())));
        assert_eq!(float("1e2", None), (value("100", None), Updated::Text("100".into())));
        assert_eq!(float("x", None).1, Updated::Wrong(Wrong::NotFloat));
        assert_eq!(float("1", held("x", None)).1, Updated::Wrong(Wrong::NotFloat));
        assert_eq!(float("inf", held("1", None)).1, Updated::Wrong(Wrong::NotFinite));
    }

    #[test]
    fn an_append_is_bounded() {
        let append = |end: &'static str, text| of(Update::Append(end.into()), text);
        assert_eq!(append("", None), (value("", None), Updated::Length(0)));
        assert_eq!(append("", held("a", None)), (Becomes::Same, Updated::Length(1)));
        assert_eq!(append("bc", held("a", Some(5000))), (value("abc", Some(5000)), Updated::Length(3)));
        assert_eq!(append("12345", held("12345", None)).1, Updated::Length(10));
        assert_eq!(append("123456", held("12345", None)), (Becomes::Same, Updated::Wrong(Wrong::TooLong)));
    }

    #[test]
    fn a_deadline_is_set_moved_and_taken_away() {
        let expire = |at, only, until| of(Update::Expire { at, only }, held("v", until)).0;
        let lasting = |at| Becomes::Lasting { until: Some(at) };
        use ExpireOnly as E;
        let late = Some(5000);
        for (at, only, until, becomes) in [
            (2000, E::Always, None, lasting(2000)),
            (NOW, E::Always, late, Becomes::Gone),
            (2000, E::NoExpiry, None, lasting(2000)),
            (2000, E::NoExpiry, late, Becomes::Same),
            (2000, E::HasExpiry, None, Becomes::Same),
            (2000, E::HasExpiry, late, lasting(2000)),
            (6000, E::Later, None, Becomes::Same),
            (5000, E::Later, late, Becomes::Same),
            (6000, E::Later, late, lasting(6000)),
            (6000, E::Earlier, None, lasting(6000)),
            (5000, E::Earlier, late, Becomes::Same),
            (4999, E::Earlier, late, lasting(4999)),
            (4999, E::HasExpiryEarlier, None, Becomes::Same),
            (4999, E::HasExpiryEarlier, late, lasting(4999)),
        ] {
            assert_eq!(expire(at, only, until), becomes, "{at} {only:?} {until:?}");
        }
        assert_eq!(of(Update::Expire { at: 2000, only: E::Always }, None), unchanged(None));
        assert_eq!(of(Update::Persist, held("v", late)), (Becomes::Lasting { until: None }, done(Some("v"))));
        assert_eq!(of(Update::Persist, held("v", None)), unchanged(Some("v")));
        assert_eq!(of(Update::Persist, None), unchanged(None));
    }

    #[test]
    fn without_a_wall_clock_no_deadline_is_past() {
        let expire = Update::Expire { at: 1, only: ExpireOnly::Always };
        assert_eq!(evaluate(expire, held("v", None), None, 10).becomes, Becomes::Lasting { until: Some(1) });
    }
}
