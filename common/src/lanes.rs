//! MD5 of several short keys at a time, one in each lane of vector registers.
//!
//! MD5 is a chain of steps of which each waits for the one before, so that a processor computes one digest hardly faster than
//! eight beside each other. A server that finds many reads or writes in one piece of a pipeline asks for their positions together.
//! Source: RFC 1321. Only keys that fit into one block with their padding.

use wide::u32x4;

/// How many keys at a time.
pub(crate) const LANES: usize = 8;
/// The longest key: what a block of 64 bytes holds beside a bit and the length.
pub(crate) const LONGEST: usize = 55;

/// The state before the first block.
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// By how much the steps of each round rotate.
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
/// The integer parts of 2^32 times the sines of 1 to 64.
#[rustfmt::skip] // a table
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// A number in each lane.
type Row = [u32x4; LANES / 4];

fn row(numbers: [u32; LANES]) -> Row {
    std::array::from_fn(|half| u32x4::new(std::array::from_fn(|lane| numbers[half * 4 + lane])))
}

/// Step `i` of round `ROUND`.
#[inline(always)]
fn step<const ROUND: usize>([a, b, c, d]: [Row; 4], words: &[Row; 16], i: usize) -> [Row; 4] {
    let word = &words[match ROUND {
        0 => i,
        1 => (5 * i + 1) % 16,
        2 => (3 * i + 5) % 16,
        _ => 7 * i % 16,
    }];
    let (sine, shift) = (u32x4::splat(SINES[ROUND * 16 + i]), SHIFTS[ROUND][i % 4]);
    let next = std::array::from_fn(|half| {
        let (a, b, c, d) = (a[half], b[half], c[half], d[half]);
        let mixed = match ROUND {
            0 => d ^ (b & (c ^ d)),
            1 => c ^ (d & (b ^ c)),
            2 => b ^ c ^ d,
            _ => c ^ (b | !d),
        };
        let sum = a + mixed + sine + word[half];
        b + ((sum << shift) | (sum >> (32 - shift)))
    });
    [d, next, b, c]
}

/// The digests of these keys, of which each has at most [`LONGEST`] bytes.
pub(crate) fn digests(keys: &[&[u8]; LANES]) -> [[u8; 16]; LANES] {
    let blocks = keys.map(block);
    let word = |block: &[u8; 64], i: usize| block[i * 4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let words: [Row; 16] = std::array::from_fn(|i| row(std::array::from_fn(|lane| word(&blocks[lane], i))));
    let start = START.map(|number| row([number; LANES]));
    let mut state = start;
    for i in 0..16 {
        state = step::<0>(state, &words, i);
    }
    for i in 0..16 {
        state = step::<1>(state, &words, i);
    }
    for i in 0..16 {
        state = step::<2>(state, &words, i);
    }
    for i in 0..16 {
        state = step::<3>(state, &words, i);
    }
    let mut digests = [[0; 16]; LANES];
    for (part, (end, start)) in state.iter().zip(start).enumerate() {
        for (half, (end, start)) in end.iter().zip(start).enumerate() {
            for (lane, number) in (*end + start).to_array().into_iter().enumerate() {
                digests[half * 4 + lane][part * 4..][..4].copy_from_slice(&number.to_le_bytes());
            }
        }
    }
    digests
}

/// A key with its padding: a one bit, zeros, its length in bits.
fn block(key: &[u8]) -> [u8; 64] {
    let key = &key[..key.len().min(LONGEST)];
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    block[key.len()] = 0x80;
    block[56..58].copy_from_slice(&u16::try_from(key.len() * 8).unwrap_or(0).to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use md5::{Digest, Md5};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_is_that_of_the_sines() {
        for (i, number) in (1_u32..).zip(SINES) {
            assert!((f64::from(i).sin().abs() * 4_294_967_296.0 - f64::from(number)).abs() <= 1.0, "sine of {i}");
        }
    }

    proptest! {
        #[test]
        fn each_lane_is_md5(keys: [Vec<u8>; LANES]) {
            let keys: [&[u8]; LANES] = std::array::from_fn(|lane| &keys[lane][..keys[lane].len().min(LONGEST)]);
            for (key, digest) in keys.iter().zip(digests(&keys)) {
                prop_assert_eq!(<[u8; 16]>::from(Md5::digest(key)), digest);
            }
        }
    }

    #[test]
    fn keys_of_every_length_that_fits() {
        for length in 0..=LONGEST {
            let key = vec![b'x'; length];
            assert_eq!(digests(&[&key; LANES]), [<[u8; 16]>::from(Md5::digest(&key)); LANES], "{length}");
        }
    }
}
