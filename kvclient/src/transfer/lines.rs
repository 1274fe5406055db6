//! Reads a file line by line in a thread of its own, a bounded number of lines ahead.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc;

use super::is_standard;

/// The longest line: a value of the largest size, every byte of it escaped, fits.
const LONGEST: u64 = 8 * 1024 * 1024;
/// Lines read ahead; then reading waits.
const AHEAD: usize = 256;

/// A line of the input.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// The bytes of the input up to this line's end.
    pub(super) end: u64,
    /// Without the line feed; too long: none.
    pub(super) text: Option<Vec<u8>>,
}

/// The size of the input, if it has one.
pub(super) fn size(file: &Path) -> io::Result<Option<u64>> {
    if is_standard(file) {
        return Ok(None);
    }
    let metadata = std::fs::metadata(file)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    Ok(metadata.is_file().then_some(metadata.len()))
}

/// Starts reading.
pub(super) fn read(file: &Path) -> io::Result<mpsc::Receiver<io::Result<Line>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    if is_standard(file) {
        tokio::task::spawn_blocking(move || pump(io::stdin().lock(), &sender));
    } else {
        let input = BufReader::with_capacity(256 * 1024, File::open(file)?);
        tokio::task::spawn_blocking(move || pump(input, &sender));
    }
    Ok(receiver)
}

fn pump(mut input: impl BufRead, sender: &mpsc::Sender<io::Result<Line>>) {
    let (mut number, mut end) = (0, 0);
    loop {
        let line = match next(&mut input, &mut number, &mut end) {
            Ok(Some(line)) => Ok(line),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let last = line.is_err();
        if sender.blocking_send(line).is_err() || last {
            return;
        }
    }
}

fn next(input: &mut impl BufRead, number: &mut u64, end: &mut u64) -> io::Result<Option<Line>> {
    let mut text = Vec::new();
    let read = input.by_ref().take(LONGEST).read_until(b'\n', &mut text)? as u64;
    if read == 0 {
        return Ok(None);
    }
    *number += 1;
    *end += read;
    if text.ends_with(b"\n") {
        text.pop();
    } else if read == LONGEST {
        *end += input.skip_until(b'\n')? as u64;
        return Ok(Some(Line { number: *number, end: *end, text: None }));
    }
    Ok(Some(Line { number: *number, end: *end, text: Some(text) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_long_ones_left_out() {
        let long = vec![b'x'; usize::try_from(LONGEST).unwrap() + 10];
        let mut input = io::Cursor::new([b"a\n", &long[..], b"\nb"].concat());
        let (mut number, mut end) = (0, 0);
        let mut all = Vec::new();
        while let Some(line) = next(&mut input, &mut number, &mut end).unwrap() {
            all.push((line.number, line.end, line.text));
        }
        assert_eq!(all[0], (1, 2, Some(b"a".to_vec())));
        assert_eq!((all[1].0, all[1].1, all[1].2.is_none()), (2, 2 + LONGEST + 11, true));
        assert_eq!(all[2], (3, 2 + LONGEST + 12, Some(b"b".to_vec())));
        assert_eq!(all.len(), 3);
    }
}
