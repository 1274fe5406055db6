//! Binary frames of the peer connections: `length u32 | crc32 u32 | postcard payload`, little-endian.

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest payload. A frame carries at most one catch-up tail or a batch of entries; what is larger is a broken or
/// foreign sender, and the connection is closed.
pub const MAX_PAYLOAD: usize = 64 << 20;
const HEAD: usize = 8;
/// Room made for a frame that has only begun, at least; more follows as more has come.
const ROOM: usize = 64 << 10;

/// Why a stream of frames cannot be read on. The connection must be closed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The announced length is over the limit.
    #[error("peer frame of {0} bytes is over the limit of {1}: not a peer, or another version")]
    TooLong(usize, usize),
    /// The checksum is wrong.
    #[error("peer frame with a wrong checksum: the bytes were damaged on the way")]
    Checksum,
    /// The payload is not the expected message.
    #[error("peer frame that is no known message: {0}")]
    Payload(String),
}

/// Appends a frame to `out`.
pub fn put<T: Serialize>(out: &mut BytesMut, message: &T) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    let written = postcard::to_io(message, Writer(out));
    debug_assert!(written.is_ok(), "messages are serializable");
    let payload = &out[start + HEAD..];
    let (length, crc) = (u32::try_from(payload.len()).unwrap_or(u32::MAX), crc32fast::hash(payload));
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

struct Writer<'a>(&'a mut BytesMut);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Takes the next whole frame off `input`; None until it has all arrived.
///
/// # Errors
/// The stream is unusable; see [`FrameError`].
pub fn take<T: DeserializeOwned>(input: &mut BytesMut) -> Result<Option<T>, FrameError> {
    take_up_to(input, MAX_PAYLOAD)
}

/// As [`take`], where frames with more than `limit` bytes of payload make no sense.
///
/// # Errors
/// As [`take`].
pub fn take_up_to<T: DeserializeOwned>(input: &mut BytesMut, limit: usize) -> Result<Option<T>, FrameError> {
    let Some(head) = input.get(..HEAD) else { return Ok(None) };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (length, crc) = (number(0) as usize, number(4));
    if length > limit {
        return Err(FrameError::TooLong(length, limit));
    }
    let Some(payload) = input.get(HEAD..HEAD + length) else {
        // Room grows with what has come: eight bytes must not be able to claim megabytes.
        let missing = HEAD + length - input.len();
        input.reserve(missing.min(input.len().max(ROOM)));
        return Ok(None);
    };
    if crc32fast::hash(payload) != crc {
        return Err(FrameError::Checksum);
    }
    let message = postcard::from_bytes(payload).map_err(|e| FrameError::Payload(e.to_string()))?;
    input.advance(HEAD + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, LogId, Op, Outcome};
    use crate::ids::{Epoch, Seq, Slot};
    use crate::peer::PeerMsg;

    #[test]
    fn a_frame_split_at_every_byte_is_the_same_frame() {
        let id = LogId { epoch: Epoch(7), seq: Seq(9) };
        let op = Op::Put { key: "k".into(), value: "\u{fffd}v".into() };
        let message = PeerMsg::PutFromCoordinator {
            slot: Slot(3),
            epoch: Epoch(7),
            rank: 1,
            prev: LogId::default(),
            entries: vec![Entry { id, op, outcome: Outcome::Created, request: None }],
            commit: Seq(8),
        };
        let mut whole = BytesMut::new();
        put(&mut whole, &message);
        for cut in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..cut]);
            assert_eq!(take::<PeerMsg>(&mut input), Ok(None));
            input.extend_from_slice(&whole[cut..]);
            assert_eq!(take::<PeerMsg>(&mut input), Ok(Some(message.clone())));
            assert!(input.is_empty());
        }
        for at in HEAD..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert_eq!(take::<PeerMsg>(&mut bad), Err(FrameError::Checksum));
        }
    }

    #[test]
    fn what_is_announced_is_not_allocated() {
        let announced = u32::try_from(MAX_PAYLOAD).unwrap().to_le_bytes();
        let mut input = BytesMut::from(&[&announced[..], &[0; 6]].concat()[..]);
        assert_eq!(take::<PeerMsg>(&mut input), Ok(None));
        assert!(input.capacity() < 4 * ROOM, "{}", input.capacity());
        let mut input = BytesMut::from(&[0xff; 10][..]);
        assert_eq!(take::<PeerMsg>(&mut input), Err(FrameError::TooLong(u32::MAX as usize, MAX_PAYLOAD)));
        let mut input = BytesMut::from(&[&4097_u32.to_le_bytes()[..], &[0; 4]].concat()[..]);
        assert_eq!(take_up_to::<PeerMsg>(&mut input, 4096), Err(FrameError::TooLong(4097, 4096)));
    }
}
