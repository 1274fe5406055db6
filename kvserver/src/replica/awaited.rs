//! Which clients wait for which entries to be committed, and since when. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use common::{Seq, Time};

use super::action::Token;

/// See the module. In the order of the log, in which entries are proposed and committed.
#[derive(Debug, Default)]
pub(super) struct Awaited(VecDeque<Wait>);

#[derive(Debug)]
struct Wait {
    entry: Seq,
    /// None: told that it takes too long. One such place for an entry is kept until the entry is committed.
    token: Option<Token>,
    since: Time,
}

impl Awaited {
    /// A client waits for this entry, as a rule the newest one.
    pub(super) fn push(&mut self, entry: Seq, token: Token, since: Time) {
        let at = self.0.partition_point(|wait| wait.entry <= entry);
        self.0.insert(at, Wait { entry, token: Some(token), since });
    }

    /// Who waits for this entry; they wait no longer.
    pub(super) fn committed(&mut self, entry: Seq) -> impl Iterator<Item = Token> {
        let from = self.0.partition_point(|wait| wait.entry < entry);
        let to = self.0.partition_point(|wait| wait.entry <= entry);
        self.0.drain(from..to).filter_map(|wait| wait.token)
    }

    /// Who has been waiting for longer than `patience`; they are not told again.
    pub(super) fn late(&mut self, now: Time, patience: Duration) -> Vec<Token> {
        let (mut told, mut before) = (Vec::new(), None);
        self.0.retain_mut(|wait| {
            if now.since(wait.since) > patience {
                told.extend(wait.token.take());
            }
            let kept = wait.token.is_some() || before != Some(wait.entry);
            before = Some(wait.entry);
            kept
        });
        told
    }

    /// Whether nobody waits, nor has waited for an entry that is not committed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All who wait.
    pub(super) fn into_tokens(self) -> impl Iterator<Item = Token> {
        self.0.into_iter().filter_map(|wait| wait.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_micros(3);

    const fn token(index: u64) -> Token {
        Token { conn: 1, index }
    }

    #[test]
    fn everybody_is_told_once_when_the_entry_is_committed_or_it_takes_too_long() {
        let mut awaited = Awaited::default();
        for (entry, index, since) in [(1, 10, 5), (2, 20, 5), (3, 30, 7), (2, 21, 8)] {
            awaited.push(Seq(entry), token(index), Time(since));
        }
        assert_eq!(awaited.committed(Seq(1)).collect::<Vec<_>>(), [token(10)]);
        assert_eq!(awaited.late(Time(9), PATIENCE), [token(20)]);
        assert_eq!(awaited.late(Time(9), PATIENCE), []);
        assert_eq!(awaited.committed(Seq(2)).collect::<Vec<_>>(), [token(21)]);
        assert!(!awaited.is_empty());
        (31..40).for_each(|index| awaited.push(Seq(3), token(index), Time(9)));
        assert_eq!(awaited.late(Time(100), PATIENCE), (30..40).map(token).collect::<Vec<_>>());
        assert_eq!(awaited.0.len(), 1, "the entry is still under way, whoever has asked for it");
        assert_eq!(awaited.committed(Seq(3)).count(), 0);
        assert!(awaited.is_empty() && awaited.into_tokens().count() == 0);
    }
}
