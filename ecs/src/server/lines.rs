//! Lines from a socket, each of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// What an empty line keeps of its memory: one long report must not cost its length for ever.
const KEEP: usize = 64 << 10;

/// How a line begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begun {
    /// And ends.
    Whole,
    /// The stream ends instead.
    End,
    /// And is longer: [`rest`] reads on.
    Longer,
}

/// Reads the next line, without its line feed, into `line`; false at the end of the stream.
///
/// # Errors
/// The connection fails, or the line is longer than `limit`: the stream cannot be read on.
pub(crate) async fn next(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<bool> {
    match begin(input, line, limit).await? {
        Begun::Whole => Ok(true),
        Begun::End => Ok(false),
        Begun::Longer => Err(too_long(limit)),
    }
}

/// As [`next`], but stops reading where the line turns out to be longer than `limit`.
///
/// # Errors
/// The connection fails.
pub(crate) async fn begin(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<Begun> {
    line.clear();
    line.shrink_to(KEEP);
    read_on(input, line, limit).await
}

/// The rest of a line that was longer than [`begin`] may read; as [`next`].
///
/// # Errors
/// As [`next`].
pub(crate) async fn rest(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<bool> {
    match read_on(input, line, limit).await? {
        Begun::Whole => Ok(true),
        Begun::End => Ok(false),
        Begun::Longer => Err(too_long(limit)),
    }
}

async fn read_on(input: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, limit: usize) -> io::Result<Begun> {
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(Begun::End);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |at| at + 1);
        if line.len() + taken > limit {
            return Ok(Begun::Longer);
        }
        line.extend_from_slice(&available[..taken]);
        input.consume(taken);
        if end.is_some() {
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            return Ok(Begun::Whole);
        }
    }
}

fn too_long(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a line is longer than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_bounded() {
        let text = b"one\r\ntwo\n\nlong line\nhalf".as_slice();
        let mut input = tokio::io::BufReader::with_capacity(2, text);
        let mut line = Vec::new();
        for expected in ["one", "two", ""] {
            assert!(next(&mut input, &mut line, 8).await.unwrap());
            assert_eq!(line, expected.as_bytes());
        }
        assert!(next(&mut input, &mut line, 8).await.is_err());
        let mut half = b"half".as_slice();
        assert!(!next(&mut half, &mut line, 8).await.unwrap());
    }

    #[tokio::test]
    async fn a_long_line_is_read_on_where_it_was_left() {
        let text = b"short\na line of many bytes\nafter\n".as_slice();
        let mut input = tokio::io::BufReader::with_capacity(4, text);
        let mut line = Vec::new();
        assert_eq!(begin(&mut input, &mut line, 8).await.unwrap(), Begun::Whole);
        assert_eq!(begin(&mut input, &mut line, 8).await.unwrap(), Begun::Longer);
        assert!(rest(&mut input, &mut line, 100).await.unwrap());
        assert_eq!(line, b"a line of many bytes");
        assert_eq!(begin(&mut input, &mut line, 8).await.unwrap(), Begun::Whole);
        assert_eq!((&line[..], begin(&mut input, &mut Vec::new(), 8).await.unwrap()), (&b"after"[..], Begun::End));
    }
}
