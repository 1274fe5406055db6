//! Things that may happen thousands of times a second and are worth a line of the log now and then. Pure.

use std::time::Duration;

use crate::time::Time;

/// Lets one line through in each `pause`, and counts what it stands for.
#[derive(Clone, Debug)]
pub struct Throttle {
    pause: Duration,
    said: Option<Time>,
    unsaid: u64,
}

impl Throttle {
    /// One line in `pause` at most.
    #[must_use]
    pub fn new(pause: Duration) -> Throttle {
        Throttle { pause, said: None, unsaid: 0 }
    }

    /// It happened `count` times more. If it is to be said now: how often it has happened since it was last said.
    pub fn say(&mut self, now: Time, count: u64) -> Option<u64> {
        self.unsaid += count;
        if self.said.is_some_and(|said| now.since(said) < self.pause) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stands_for_many() {
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let said: Vec<(u64, u64)> =
            (0..30_000).filter_map(|at| throttle.say(Time(at * 100), 1).map(|count| (at, count))).collect();
        assert_eq!(said, [(0, 1), (10_000, 10_000), (20_000, 10_000)]);
    }
}
