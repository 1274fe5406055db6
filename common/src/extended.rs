//! Sums of numbers that are text, as Redis makes them on x86: in the 80-bit format (64 bits of mantissa), and shown with up
//! to 17 decimal places without trailing zeros.
//!
//! With an `f64` the sum of 10.5 and 0.1 would be shown as 10.59999999999999964: two programs that share a key must not see
//! two results. Everything in here is exact, or rounded once, to the nearest and in doubt to the even.

use std::cmp::Ordering;
use std::fmt::Write as _;

/// As long as a number's text may be.
const LONGEST: usize = 5 * 1024 - 1;
/// What the last bit of the smallest number is worth, as a power of two.
const SMALLEST: i32 = -16_445;
/// All numbers are below this power of two.
const BEYOND: i32 = 16_384;
/// Decimal exponents beyond this lie beyond all numbers, whatever their digits.
const FAR: i64 = 20_000;
/// Decimal places shown.
const PLACES: u32 = 17;

/// A number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extended {
    /// ±mantissa · 2^exponent.
    Finite {
        /// Its sign.
        negative: bool,
        /// 0, or with its top bit set unless the number is among the smallest.
        mantissa: u64,
        /// The last bit's worth.
        exponent: i32,
    },
    /// ±∞.
    Infinite {
        /// Its sign.
        negative: bool,
    },
}

impl Extended {
    /// Nothing.
    pub const ZERO: Extended = Extended::Finite { negative: false, mantissa: 0, exponent: SMALLEST };

    /// Reads what C's `strtold` reads, as far as Redis takes it: the whole text, no blanks, no NaN, nothing that is too large or
    /// too small to be told from infinity or 0.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Extended> {
        if text.len() > LONGEST {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            text => (false, text),
        };
        if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
            return Some(Extended::Infinite { negative });
        }
        match text {
            [b'0', b'x' | b'X', digits @ ..] => hexadecimal(negative, digits),
            digits => decimal(negative, digits),
        }
    }

    /// The sum; None: there is none (∞ - ∞).
    #[must_use]
    pub fn plus(self, other: Extended) -> Option<Extended> {
        match (self, other) {
            (Extended::Infinite { negative: a }, Extended::Infinite { negative: b }) => (a == b).then_some(self),
            (Extended::Infinite { .. }, _) => Some(self),
            (_, Extended::Infinite { .. }) => Some(other),
            (Extended::Finite { mantissa: 0, .. }, _) => Some(other),
            (_, Extended::Finite { mantissa: 0, .. }) => Some(self),
            (
                Extended::Finite { negative: a, mantissa: m, exponent: e },
                Extended::Finite { negative: b, mantissa: n, exponent: f },
            ) => Some(sum((a, m, e), (b, n, f))),
        }
    }

    /// As text; None: it is not finite.
    #[must_use]
    pub fn text(self) -> Option<String> {
        let Extended::Finite { negative, mantissa, exponent } = self else { return None };
        let (mut text, fraction) = if exponent >= 0 {
            let mut whole = Natural::from(u128::from(mantissa));
            whole.shift_left(exponent.unsigned_abs());
            (whole.decimal(), 0)
        } else {
            // Below 2^121, so that the product fits.
            let scaled = u128::from(mantissa) * 10u128.pow(PLACES);
            let scaled = rounded(scaled, exponent.unsigned_abs(), false);
            ((scaled / 10u128.pow(PLACES)).to_string(), scaled % 10u128.pow(PLACES))
        };
        if fraction > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, ".{fraction:017}");
            text.truncate(text.trim_end_matches('0').len());
        }
        Some(if negative && text != "0" { format!("-{text}") } else { text })
    }
}

/// The nearest number to ±`mantissa` · 2^`exponent`, and a little more than that if `more`.
fn nearest(negative: bool, mantissa: u128, exponent: i32, more: bool) -> Extended {
    let length = 128 - mantissa.leading_zeros().cast_signed();
    let cut = (length - 64).max(SMALLEST - exponent);
    let (mut mantissa, mut exponent) = match u32::try_from(cut) {
        Ok(cut) => (rounded(mantissa, cut, more), exponent + cut.cast_signed()),
        Err(_) => (mantissa << cut.unsigned_abs(), exponent + cut),
    };
    if mantissa >> 64 > 0 {
        (mantissa, exponent) = (mantissa >> 1, exponent + 1);
    }
    match u64::try_from(mantissa) {
        Ok(mantissa) if mantissa == 0 || 64 - mantissa.leading_zeros().cast_signed() + exponent <= BEYOND => {
            Extended::Finite { negative, mantissa, exponent }
        }
        _ => Extended::Infinite { negative },
    }
}

/// Without its last bits, to the nearest, in doubt to the even; `more`: it is a little more.
fn rounded(number: u128, cut: u32, more: bool) -> u128 {
    if cut == 0 {
        return number;
    }
    let Some(kept) = number.checked_shr(cut) else {
        // Less than half of the last bit that is kept, unless all 128 bits are cut and the first one is set.
        let half = 1u128 << 127;
        return u128::from(cut == 128 && (number > half || number == half && more));
    };
    let (rest, half) = (number ^ (kept << cut), 1u128 << (cut - 1));
    let up = match rest.cmp(&half) {
        Ordering::Less => false,
        Ordering::Equal => more || kept & 1 == 1,
        Ordering::Greater => true,
    };
    kept + u128::from(up)
}

/// The sum of two that are not 0.
fn sum(one: (bool, u64, i32), other: (bool, u64, i32)) -> Extended {
    let top = |(negative, mantissa, exponent): (bool, u64, i32)| {
        let zeros = mantissa.leading_zeros();
        (exponent - zeros.cast_signed(), mantissa << zeros, negative)
    };
    let (one, other) = (top(one), top(other));
    // The larger one first; of it nothing is lost.
    let (large, small) = if (one.0, one.1) >= (other.0, other.1) { (one, other) } else { (other, one) };
    let (exponent, apart) = (large.0 - 62, (large.0 - small.0).unsigned_abs());
    let (a, b) = (u128::from(large.1) << 62, u128::from(small.1) << 62);
    let shifted = b.checked_shr(apart).unwrap_or(0);
    let lost = apart >= 128 || shifted << apart != b;
    if large.2 == small.2 {
        return nearest(large.2, a + shifted, exponent, lost);
    }
    // What was lost makes the difference a little less: one less and a little more.
    match a - shifted - u128::from(lost) {
        0 => Extended::ZERO,
        difference => nearest(large.2, difference, exponent, lost),
    }
}

/// The digits before and behind the point, and what follows them.
fn split(text: &[u8], digit: impl Fn(&u8) -> bool) -> Option<(&[u8], &[u8], &[u8])> {
    let count = |text: &[u8]| text.iter().take_while(|byte| digit(byte)).count();
    let (whole, rest) = text.split_at(count(text));
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => rest.split_at(count(rest)),
        rest => (&rest[..0], rest),
    };
    (!whole.is_empty() || !fraction.is_empty()).then_some((whole, fraction, rest))
}

/// The number behind an `e` or `p`, if there is one. Far out, all are alike.
fn exponent_in(rest: &[u8], letter: u8) -> Option<i64> {
    let digits = match rest {
        [] => return Some(0),
        [first, digits @ ..] if first.eq_ignore_ascii_case(&letter) => digits,
        _ => return None,
    };
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent = digits.iter().fold(0i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1 << 40));
    Some(if negative { -exponent } else { exponent })
}

fn hexadecimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (whole, fraction, rest) = split(text, u8::is_ascii_hexdigit)?;
    let (mut mantissa, mut more) = (0u128, false);
    let mut exponent = exponent_in(rest, b'p')? - 4 * i64::try_from(fraction.len()).ok()?;
    for digit in whole.iter().chain(fraction) {
        let digit = u128::from(char::from(*digit).to_digit(16)?);
        if mantissa >> 120 == 0 {
            mantissa = mantissa << 4 | digit;
        } else {
            (exponent, more) = (exponent + 4, more || digit > 0);
        }
    }
    if mantissa == 0 {
        return Some(Extended::Finite { negative, mantissa: 0, exponent: SMALLEST });
    }
    let exponent = i32::try_from(exponent.clamp(-4 * FAR, 4 * FAR)).ok()?;
    within(nearest(negative, mantissa, exponent, more))
}

fn decimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (whole, fraction, rest) = split(text, u8::is_ascii_digit)?;
    let exponent = exponent_in(rest, b'e')? - i64::try_from(fraction.len()).ok()?;
    let mut digits = Natural::default();
    for digit in whole.iter().chain(fraction) {
        digits.times_plus(10, u32::from(digit - b'0'));
    }
    if digits.is_zero() {
        return Some(Extended::Finite { negative, mantissa: 0, exponent: SMALLEST });
    }
    if exponent.abs() > FAR {
        return None;
    }
    let mut power = Natural::from(1);
    for _ in 0..exponent.abs() {
        power.times_plus(10, 0);
    }
    if exponent >= 0 {
        for _ in 0..exponent {
            digits.times_plus(10, 0);
        }
        power = Natural::from(1);
    }
    let (quotient, scale, more) = digits.divided(power);
    within(nearest(negative, quotient, scale, more))
}

/// What was given as a number must neither be infinite nor vanish.
fn within(number: Extended) -> Option<Extended> {
    match number {
        Extended::Finite { mantissa: 0, .. } | Extended::Infinite { .. } => None,
        number @ Extended::Finite { .. } => Some(number),
    }
}

/// A natural number of any size: its digits to the base of 2^32, the lowest first, none of them in vain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Natural(Vec<u32>);

impl From<u128> for Natural {
    fn from(mut number: u128) -> Natural {
        let mut digits = Vec::new();
        while number > 0 {
            digits.push(low(number));
            number >>= 32;
        }
        Natural(digits)
    }
}

/// The lowest 32 bits.
fn low(number: u128) -> u32 {
    u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0)
}

impl Natural {
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> u32 {
        let top = self.0.last().map_or(0, |top| 32 - top.leading_zeros());
        u32::try_from(self.0.len().saturating_sub(1) * 32).unwrap_or(u32::MAX) + top
    }

    fn times_plus(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for digit in &mut self.0 {
            let product = u64::from(*digit) * u64::from(factor) + carry;
            (*digit, carry) = (low(product.into()), product >> 32);
        }
        if carry > 0 {
            self.0.push(low(carry.into()));
        }
    }

    fn shift_left(&mut self, bits: u32) {
        if self.is_zero() {
            return;
        }
        self.times_plus(1 << (bits % 32), 0);
        self.0.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
    }

    fn compare(&self, other: &Natural) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Takes a smaller one away.
    fn subtract(&mut self, other: &Natural) {
        let mut borrow = false;
        for (i, digit) in self.0.iter_mut().enumerate() {
            let (less, first) = digit.overflowing_sub(other.0.get(i).copied().unwrap_or(0));
            let (less, second) = less.overflowing_sub(u32::from(borrow));
            (*digit, borrow) = (less, first || second);
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// `q`, `e` and whether there is a rest, with self / other = q · 2^e and q of 66 or 67 bits.
    fn divided(mut self, mut other: Natural) -> (u128, i32, bool) {
        // Both get the same length, which makes the quotient's first bit worth 2^(what self was longer by).
        let longer = self.bits().cast_signed() - other.bits().cast_signed();
        match u32::try_from(longer) {
            Ok(longer) => other.shift_left(longer),
            Err(_) => self.shift_left(longer.unsigned_abs()),
        }
        let mut quotient = 0u128;
        for _ in 0..=66 {
            quotient <<= 1;
            if self.compare(&other) != Ordering::Less {
                self.subtract(&other);
                quotient |= 1;
            }
            self.shift_left(1);
        }
        (quotient, longer - 66, !self.is_zero())
    }

    fn decimal(mut self) -> String {
        let mut groups = Vec::new();
        while !self.is_zero() {
            let mut rest = 0u64;
            for digit in self.0.iter_mut().rev() {
                let whole = rest << 32 | u64::from(*digit);
                (*digit, rest) = (low((whole / 1_000_000_000).into()), whole % 1_000_000_000);
            }
            while self.0.last() == Some(&0) {
                self.0.pop();
            }
            groups.push(rest);
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.into_iter().rev() {
            let _ = write!(text, "{group:09}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn added(one: &str, other: &str) -> Option<String> {
        Extended::parse(one.as_bytes())?.plus(Extended::parse(other.as_bytes())?)?.text()
    }

    /// What a Redis 7.0 on x86-64 answers to `set k <one>`, `incrbyfloat k <other>`.
    #[test]
    fn sums_are_what_redis_says() {
        for (one, other, says) in [
            ("10.50", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "-0", "0"),
            ("-0", "-0", "0"),
            ("1", "-1", "0"),
            ("3", "1.5", "4.5"),
            ("0.1", "-0.3", "-0.2"),
            ("1e17", "1", "100000000000000001"),
            ("1e30", "1", "1000000000000000000024696061952"),
            ("1024.001136", "0", "1024.00113600000000003"),
            ("0", "6e-18", "0.00000000000000001"),
            ("0", "1e-4950", "0"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "4e-18", "0"),
            ("0", "-4e-18", "0"),
            ("3.0e-5", "0", "0.00003"),
            ("0x10", "0x.8p1", "17"),
            ("9223372036854775807", "1", "9223372036854775808"),
            ("18446744073709551615", "1", "18446744073709551616"),
        ] {
            assert_eq!(added(one, other).as_deref(), Some(says), "{one} + {other}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", " 1", "1 ", "1a", "nan", "-nan", ".", "e5", "1e", "1e+", "--1", "0x", "1_0", "1e5000", "-1e5000",
            "1e-5000", "1,5",
        ] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Extended::parse(&[b'1'; LONGEST + 1]), None);
        for text in ["1", "+1", "-1", ".5", "5.", "1e4932", "1e-4950", "inf", "-Infinity", "00012", "1E5"] {
            assert!(Extended::parse(text.as_bytes()).is_some(), "{text:?}");
        }
        assert_eq!(added("inf", "1"), None);
        assert_eq!(added("inf", "-inf"), None);
        assert_eq!(added("1.1e4932", "1.1e4932"), None, "an overflow is infinite");
    }

    proptest! {
        /// A number with 53 bits is one with 64 bits too, and their sums agree where no bit is lost.
        #[test]
        fn integers_add_exactly(a in -(1i64 << 62)..(1i64 << 62), b in -(1i64 << 62)..(1i64 << 62)) {
            prop_assert_eq!(added(&a.to_string(), &b.to_string()), Some((a + b).to_string()));
        }

        #[test]
        fn doubles_survive(bits: u64) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite() && number.abs() < 1e30 && number != 0.0);
            let parsed = Extended::parse(format!("{number:e}").as_bytes()).unwrap();
            let Extended::Finite { negative, mantissa, exponent } = parsed else { panic!("{number}") };
            // Rounding twice differs from rounding once by a last bit at most.
            #[allow(clippy::cast_precision_loss)]
            let back = (mantissa as f64) * 2f64.powi(exponent.max(-1000)) * 2f64.powi(exponent - exponent.max(-1000));
            let back = if negative { -back } else { back };
            prop_assert!((back - number).abs() <= number.abs() * 3e-16, "{} {}", number, back);
        }

        #[test]
        fn decimal_places_are_kept(whole in 0u32..64, places in 0u32..1_000_000) {
            let text = format!("{whole}.{places:06}");
            let shown = added(&text, "0").unwrap();
            let expected = if places == 0 { whole.to_string() } else { text.trim_end_matches('0').to_owned() };
            prop_assert_eq!(shown, expected);
        }

        #[test]
        fn anything_is_read_or_refused(bytes: Vec<u8>) {
            if let Some(number) = Extended::parse(&bytes) {
                let _ = number.plus(number).and_then(Extended::text);
            }
        }
    }
}
