//! Lines from a socket, each of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Reads the next line, without its line feed, into `line`; false at the end of the stream.
///
/// # Errors
/// The connection fails, or the line is longer than `limit`: the stream cannot be read on.
pub(crate) async fn next(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<bool> {
    line.clear();
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(false);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |at| at + 1);
        if line.len() + taken > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line is longer than {limit} bytes")));
        }
        line.extend_from_slice(&available[..taken]);
        input.consume(taken);
        if end.is_some() {
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            return Ok(true);
        }
    }
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
}
