//! Pauses between attempts: growing, bounded, and jittered so that many callers do not come back at once. Pure but for
//! the jitter.

use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first`, doubling up to `most`.
    pub(crate) fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, next: first }
    }

    /// The attempt worked: start small again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause: between half of the current length and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let length = self.next;
        self.next = (self.next * 2).min(self.most);
        length.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_over() {
        let (first, most) = (Duration::from_millis(10), Duration::from_millis(500));
        let mut backoff = Backoff::new(first, most);
        assert!(backoff.pause() <= first);
        for _ in 0..20 {
            assert!(backoff.pause() <= most);
        }
        assert!(backoff.pause() >= most / 2);
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
