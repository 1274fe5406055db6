//! Latencies in buckets of about 1.6 % width: constant memory, no sorting, exact enough for percentiles.

use std::time::Duration;

/// Buckets per power of two.
const FINE: u64 = 64;
const FINE_BITS: u32 = 6;

/// Counts of nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// As many as were needed so far: ten thousand connections have one each.
    counts: Vec<u64>,
    total: u64,
    worst: Duration,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(nanos);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.worst = self.worst.max(latency);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.worst = self.worst.max(other.worst);
    }

    /// The latency that the given part (0.5, 0.99) of all stayed at or below, to the width of a bucket.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(upper_end(index as u64)).min(self.worst);
            }
        }
        self.worst
    }

    /// The largest, exactly.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.worst
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }
}

/// Below `FINE` each number has its bucket; above, each power of two has `FINE` of them.
fn bucket(nanos: u64) -> usize {
    if nanos < FINE {
        return nanos as usize;
    }
    let power = nanos.ilog2() - FINE_BITS;
    (u64::from(power) * FINE + (nanos >> power)) as usize
}

fn upper_end(bucket: u64) -> u64 {
    if bucket < 2 * FINE {
        return bucket;
    }
    let power = bucket / FINE - 1;
    let fine = bucket - power * FINE;
    ((fine + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_in_its_bucket_and_buckets_are_narrow() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let nanos = random.u64(..) >> random.u32(1..64);
            let end = upper_end(bucket(nanos) as u64);
            assert!(end >= nanos && end - nanos <= nanos / FINE + 1, "{nanos} in a bucket that ends at {end}");
        }
    }

    #[test]
    fn quantiles_of_an_even_spread_are_where_they_should_be() {
        let mut histogram = Histogram::default();
        for micros in 1..=1_000 {
            histogram.add(Duration::from_micros(micros));
        }
        let half = histogram.quantile(0.5).as_micros();
        assert!((500..=510).contains(&half), "{half}");
        assert_eq!(histogram.quantile(1.0), Duration::from_millis(1));
        assert_eq!(histogram.count(), 1_000);
    }

    #[test]
    fn a_sum_of_two_holds_both() {
        let (mut short, mut long) = (Histogram::default(), Histogram::default());
        (0..99).for_each(|_| short.add(Duration::from_micros(5)));
        long.add(Duration::from_secs(3));
        short.merge(&long);
        assert_eq!((short.count(), short.worst()), (100, Duration::from_secs(3)));
        assert!(short.quantile(0.99) < Duration::from_micros(6) && short.quantile(0.995) == Duration::from_secs(3));
    }
}
