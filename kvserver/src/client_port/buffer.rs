//! Bytes that come in at one end and go out at the other, in memory whose size is known.
//!
//! What has gone is moved away before it outweighs what is left, so that a stream that never runs dry does not grow its
//! buffer; and an empty buffer gives its memory back if it has grown.

use bytes::BytesMut;

/// How much a buffer may keep when it is empty: a usual pipeline fits, and ten thousand idle connections stay small.
const KEEP: usize = 16 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: BytesMut,
    /// Bytes at the front that have gone already.
    gone: usize,
}

impl Buffer {
    /// What has not gone yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// Where bytes are appended.
    pub(super) fn end(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// So many bytes of the front go.
    pub(super) fn take(&mut self, count: usize) {
        self.gone += count;
        let left = self.bytes.len() - self.gone;
        if left == 0 {
            self.clear();
        } else if self.gone >= left {
            self.bytes.copy_within(self.gone.., 0);
            self.bytes.truncate(left);
            self.gone = 0;
        }
    }

    /// All of them go.
    pub(super) fn clear(&mut self) {
        self.gone = 0;
        if self.bytes.capacity() > KEEP {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.clear();
        }
    }

    /// How much memory it holds. Exact, because the front of the allocation is never given up by itself.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_never_runs_dry_does_not_grow_its_buffer() {
        let mut buffer = Buffer::default();
        let (mut came, mut went) = (0_u32, 0_u32);
        for round in 0..10_000_u32 {
            for _ in 0..round % 7 + 100 {
                buffer.end().extend_from_slice(&came.to_le_bytes());
                came += 1;
            }
            while buffer.rest().len() > 4 * 50 {
                assert_eq!(buffer.rest()[..4], went.to_le_bytes());
                went += 1;
                buffer.take(4);
            }
        }
        assert!(came > 900_000 && buffer.memory() < 8 * 1024, "{} bytes", buffer.memory());
    }

    #[test]
    fn an_empty_buffer_keeps_little() {
        let mut buffer = Buffer::default();
        buffer.end().extend_from_slice(&[7; 1 << 20]);
        assert!(buffer.memory() >= 1 << 20);
        buffer.take(1 << 20);
        assert_eq!((buffer.memory(), buffer.rest()), (0, &[][..]));
        buffer.end().extend_from_slice(b"small");
        buffer.take(5);
        assert!(buffer.memory() > 0 && buffer.memory() <= KEEP);
    }
}
