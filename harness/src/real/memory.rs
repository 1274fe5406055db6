//! Damages a running process's memory, as failing hardware would.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;

/// Pieces in which memory is read; what is looked for may lie across the border of two.
const PIECE: usize = 1 << 20;

/// Flips one bit of every occurrence of `needle` in the writable memory of process `pid`; gives how many there were.
///
/// # Errors
/// This process may not write into that one.
pub fn flip(pid: u32, needle: &[u8]) -> io::Result<usize> {
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut flipped = 0;
    for (from, to) in maps.lines().filter_map(writable) {
        flipped += flip_in(&memory, from, to, needle)?;
    }
    Ok(flipped)
}

/// The borders of a line's region, if it is ordinary memory.
fn writable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let special = ["[vvar", "[vdso", "[vsyscall"].iter().any(|name| line.contains(name));
    let ordinary = fields.next()?.starts_with("rw") && !special;
    ordinary.then_some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
}

fn flip_in(memory: &File, from: u64, to: u64, needle: &[u8]) -> io::Result<usize> {
    let (mut at, mut flipped) = (from, 0);
    let mut piece = vec![0; PIECE + needle.len()];
    while at < to {
        let length = piece.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
        // Pages that were never touched, or were given back meanwhile, cannot be read.
        let read = memory.read_at(&mut piece[..length], at).unwrap_or(0);
        for found in (0..read.saturating_sub(needle.len() - 1)).filter(|i| piece[*i..].starts_with(needle)) {
            memory.write_at(&[piece[found] ^ 1], at + found as u64)?;
            flipped += 1;
        }
        at += PIECE as u64;
    }
    Ok(flipped)
}
