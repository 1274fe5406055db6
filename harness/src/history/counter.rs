//! Counters: keys that are only ever counted up by one. Each answer is then a place in the one order that there is.

/// One count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Count {
    counter: u32,
    call: u64,
    end: CountEnd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CountEnd {
    /// The sum that was told, and when.
    Answered(u64, i64),
    Refused,
    Unknown,
}

/// Everything that was counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    counts: Vec<Count>,
}

impl Counters {
    /// Begins to count; returns a number for it.
    pub fn call(&mut self, counter: u32, at: u64) -> u32 {
        self.counts.push(Count { counter, call: at, end: CountEnd::Unknown });
        u32::try_from(self.counts.len() - 1).unwrap_or(u32::MAX)
    }

    /// It was answered with this sum.
    pub fn answered(&mut self, number: u32, at: u64, sum: i64) {
        self.counts[number as usize].end = CountEnd::Answered(at, sum);
    }

    /// It was refused: it must never count.
    pub fn refused(&mut self, number: u32) {
        self.counts[number as usize].end = CountEnd::Refused;
    }

    /// Checks one counter, which holds `held` in the end.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self, counter: u32, held: i64) -> Result<(), String> {
        let mine = || self.counts.iter().filter(|count| count.counter == counter);
        let mut answered: Vec<(i64, u64, u64)> = mine()
            .filter_map(|count| match count.end {
                CountEnd::Answered(at, sum) => Some((sum, count.call, at)),
                CountEnd::Refused | CountEnd::Unknown => None,
            })
            .collect();
        answered.sort_unstable();
        let least = i64::try_from(answered.len()).unwrap_or(i64::MAX);
        let unknown = mine().filter(|count| count.end == CountEnd::Unknown).count();
        let most = least + i64::try_from(unknown).unwrap_or(i64::MAX);
        if held < least || held > most {
            return Err(format!(
                "counter n{counter} holds {held}; {least} counts were answered, {unknown} are unknown"
            ));
        }
        if let Some((sum, call, _)) = answered.iter().find(|(sum, ..)| *sum < 1 || *sum > held) {
            return Err(format!("counter n{counter}: a count at {call} was told {sum}; it holds {held}"));
        }
        if let Some(pair) = answered.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("counter n{counter}: two counts were told the same: {pair:?}"));
        }
        // Going down, the earliest answer of all greater sums: nothing that was told less may have begun after it.
        let mut earliest: Option<(u64, i64)> = None;
        for (sum, call, at) in answered.into_iter().rev() {
            if let Some((answer, greater)) = earliest.filter(|(answer, _)| *answer < call) {
                return Err(format!(
                    "counter n{counter}: {greater} was told at {answer}, and a count that began at {call} was told {sum}"
                ));
            }
            if earliest.is_none_or(|(answer, _)| at < answer) {
                earliest = Some((at, sum));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &[(u64, Option<(u64, i64)>)]) -> Counters {
        let mut all = Counters::default();
        for (call, end) in counts {
            let number = all.call(0, *call);
            if let Some((at, sum)) = end {
                all.answered(number, *at, *sum);
            }
        }
        all
    }

    #[test]
    fn counts_in_any_order_that_their_times_allow() {
        let all = counted(&[(0, Some((9, 2))), (1, Some((5, 1))), (6, Some((8, 3))), (7, None)]);
        assert_eq!(all.check(0, 3), Ok(()));
        assert_eq!(all.check(0, 4), Ok(()));
        assert_eq!(all.check(1, 0), Ok(()));
    }

    #[test]
    fn a_count_that_is_lost_or_counted_twice_is_caught() {
        let all = counted(&[(0, Some((1, 1))), (2, Some((3, 2)))]);
        assert!(all.check(0, 1).is_err());
        assert!(all.check(0, 3).is_err());
        assert!(counted(&[(0, Some((1, 1))), (2, Some((3, 3)))]).check(0, 2).is_err());
        assert!(counted(&[(0, Some((1, 1))), (2, Some((3, 1))), (2, None)]).check(0, 2).is_err());
    }

    #[test]
    fn a_count_that_goes_back_in_time_is_caught() {
        assert!(counted(&[(0, Some((1, 2))), (2, Some((3, 1)))]).check(0, 2).is_err());
        assert_eq!(counted(&[(0, Some((3, 2))), (2, Some((4, 1)))]).check(0, 2), Ok(()));
    }

    #[test]
    fn a_refused_count_must_not_count() {
        let mut all = Counters::default();
        let number = all.call(0, 1);
        all.refused(number);
        assert_eq!(all.check(0, 0), Ok(()));
        assert!(all.check(0, 1).is_err());
    }
}
