//! Whether a thread that has nothing to do gives its processor to others before it sleeps. Pure.
//!
//! Where clients, peers and their servers share processors, those who wait for one bring the next events: a thread that
//! lets them go first finds several when it comes back, instead of sleeping and being woken for each. But who computes
//! without a pause takes all of a time slice, and what comes meanwhile waits for it, while a thread that had slept would
//! have been let in at once. Such a neighbour is noticed by how long it takes to come back, and left alone then.
//!
//! A quota of processor time keeps a thread away as long, whether it has slept or not. Where one has throttled the
//! process of late, long turns are put down to it; so beside a quota that is used up again and again, a neighbour goes
//! unnoticed.

use std::time::Duration;

use common::Time;

/// Whoever brings events needs less; a time slice of Linux is longer.
const LONG: Duration = Duration::from_millis(2);
/// Others may have so many times as long in short turns as in long ones: where all processors are busy with what belongs
/// together, a turn is long now and then.
const SHARE: u32 = 3;
/// So much in long turns, beyond that share, is a neighbour's.
const MOST: Duration = Duration::from_millis(12);
/// How long nothing is given away then; twice as long if it turns out so again at once,
const PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// See the module. One for each thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Courtesy {
    /// Nothing is given away before.
    from: Time,
    /// The last pause.
    pause: Duration,
    /// What others had in long turns beyond their share.
    excess: Duration,
    /// Long turns are put down to a quota until then.
    excused: Time,
}

impl Courtesy {
    pub(crate) const fn new() -> Courtesy {
        Courtesy { from: Time::ZERO, pause: Duration::ZERO, excess: Duration::ZERO, excused: Time::ZERO }
    }

    /// Whether others are to go first now.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        now >= self.from
    }

    /// They have, from `since` to `now`. `throttled`: whether a quota has throttled the process of late; asked when a
    /// neighbour is suspected, and not again for as long as it would have been left alone.
    pub(crate) fn went(&mut self, since: Time, now: Time, throttled: impl FnOnce() -> bool) {
        let took = now.since(since);
        if took < LONG {
            self.excess = self.excess.saturating_sub(took / SHARE);
            return;
        }
        self.excess = (self.excess + took).min(MOST);
        if self.excess < MOST || now < self.excused {
            return;
        }
        self.excess = MOST / 2;
        if throttled() {
            self.excused = now + PAUSE;
            return;
        }
        let again = now.since(self.from) < self.pause;
        self.pause = if again { (self.pause * 2).min(LONGEST_PAUSE) } else { PAUSE };
        self.from = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(3);

    /// Gives the processor away every millisecond for so long: for `short`, and every `nth` time for a time slice. How often
    /// it was one.
    fn play(courtesy: &mut Courtesy, now: &mut Time, length: Duration, short: Duration, nth: usize) -> usize {
        let (end, mut times, mut slices) = (*now + length, 0, 0);
        while *now < end {
            if courtesy.is_due(*now) {
                times += 1;
                let slice = times % nth == 0;
                slices += usize::from(slice);
                courtesy.went(*now, *now + if slice { SLICE } else { short }, || false);
            }
            *now = *now + Duration::from_millis(1);
        }
        slices
    }

    #[test]
    fn a_neighbour_that_computes_is_left_alone() {
        let (mut courtesy, mut now) = (Courtesy::new(), Time(1));
        // Nobody else waits for the processor: a turn costs nothing, but every fiftieth is the neighbour's.
        let slices = play(&mut courtesy, &mut now, Duration::from_secs(600), Duration::from_micros(1), 50);
        assert!((100..400).contains(&slices), "{slices}");
    }

    #[test]
    fn where_everybody_is_busy_a_long_turn_now_and_then_changes_nothing() {
        let (mut courtesy, mut now) = (Courtesy::new(), Time(1));
        let slices = play(&mut courtesy, &mut now, Duration::from_secs(600), Duration::from_micros(200), 100);
        assert_eq!(slices, 6000);
    }

    #[test]
    fn once_the_neighbour_is_gone_it_goes_on_and_the_next_pause_is_short() {
        let (mut courtesy, mut now) = (Courtesy::new(), Time(1));
        play(&mut courtesy, &mut now, Duration::from_secs(600), Duration::ZERO, 2);
        assert!(!courtesy.is_due(now));
        now = now + LONGEST_PAUSE;
        play(&mut courtesy, &mut now, Duration::from_secs(60), Duration::from_micros(100), usize::MAX);
        assert!(courtesy.is_due(now));
        let slices = play(&mut courtesy, &mut now, Duration::from_secs(1), Duration::ZERO, 1);
        assert_eq!(slices, 4);
        assert!(courtesy.is_due(now + PAUSE));
    }

    #[test]
    fn a_quota_is_not_taken_for_a_neighbour() {
        let (mut courtesy, mut now, mut asked) = (Courtesy::new(), Time(1), 0);
        for _ in 0..1000 {
            let from = now;
            now = now + Duration::from_millis(8);
            courtesy.went(from, now, || {
                asked += 1;
                true
            });
            assert!(courtesy.is_due(now));
        }
        assert_eq!(asked, 8, "once a second");
        // Once it throttles no more, what it has cost is soon forgotten, and what takes as long then is a neighbour.
        for _ in 0..10 {
            courtesy.went(now, now + LONG / 2, || unreachable!("a short turn is nobody's"));
        }
        now = now + PAUSE;
        courtesy.went(now, now + SLICE, || false);
        assert!(courtesy.is_due(now + SLICE));
        courtesy.went(now, now + PAUSE, || false);
        assert!(!courtesy.is_due(now + PAUSE));
    }
}
