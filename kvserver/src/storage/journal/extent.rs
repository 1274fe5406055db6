//! How far a segment reaches: its lines, and behind them empty lines that the next groups are written over.
//!
//! A sync that changes neither the file's length nor its blocks is one write, and nothing of the file system's own. A start
//! takes the empty lines for a write that was cut off, and cuts them away. They are not zeros because people read this
//! file, and `jq`.

/// So much room is made behind a group that reaches the end of the file.
pub const AHEAD: usize = 512 << 10;
/// A group of at least an eighth of that brings no room: making it would cost more than it saves.
const LARGE: usize = 8;
/// What the room consists of.
const ROOM: u8 = b'\n';

/// Whether a byte that ought to be part of a line may be one that was never written: our own room, or what a file system
/// gives for a place that it was never told the content of. No line contains either before its end.
#[must_use]
pub fn is_unwritten(byte: u8) -> bool {
    byte == ROOM || byte == 0
}

/// Where the last line ends, if nothing but room is behind it.
#[must_use]
pub fn without_room(segment: &[u8]) -> &[u8] {
    let end = segment.iter().rposition(|byte| !is_unwritten(*byte)).map_or(0, |last| last + 1);
    let feed = usize::from(segment.get(end) == Some(&b'\n'));
    &segment[..end + feed]
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The length as far as it is known to be whole lines.
    length: u64,
    /// The file's length.
    reaches: u64,
    ahead: usize,
}

impl Extent {
    /// A new segment that consists of its head.
    #[must_use]
    pub fn new(head: &[u8], ahead: usize) -> Extent {
        Extent { length: head.len() as u64, reaches: head.len() as u64, ahead }
    }

    /// Where the lines end, and the next group begins.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether there is room behind the lines.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.reaches > self.length
    }

    /// Lengthens a group by room, if there is to be some behind it.
    pub fn pad(&self, group: &mut Vec<u8>) {
        if self.length + group.len() as u64 > self.reaches && group.len() < self.ahead / LARGE {
            group.resize(group.len() + self.ahead, ROOM);
        }
    }

    /// So many bytes were written where the lines end, of which the first `lines` are lines.
    pub fn grew(&mut self, lines: usize, bytes: usize) {
        self.reaches = self.reaches.max(self.length + bytes as u64);
        self.length += lines as u64;
    }

    /// The file was cut to where its lines end.
    pub fn cut(&mut self) {
        self.reaches = self.length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_by_a_group_that_reaches_the_end() {
        let mut extent = Extent::new(&[1; 10], 800);
        let write = |extent: &mut Extent, lines: usize| {
            let mut group = vec![1; lines];
            extent.pad(&mut group);
            extent.grew(lines, group.len());
            group.len()
        };
        assert!(!extent.has_room());
        assert_eq!(write(&mut extent, 50), 850);
        assert_eq!((extent.length(), extent.has_room()), (60, true));
        assert_eq!(write(&mut extent, 700), 700);
        assert_eq!(write(&mut extent, 99), 99);
        assert_eq!(write(&mut extent, 2), 802);
        extent.cut();
        assert!(!extent.has_room());
        assert_eq!(write(&mut extent, 100), 100);
        assert_eq!((extent.length(), extent.has_room()), (961, false));
    }

    #[test]
    fn room_is_told_from_lines() {
        for (segment, lines) in [
            (&b""[..], &b""[..]),
            (b"a\n", b"a\n"),
            (b"a\nb\n\n\n\n", b"a\nb\n"),
            (b"a\nb\0\0\n\n", b"a\nb"),
            (b"a\nb", b"a\nb"),
            (b"\n\n", b"\n"),
        ] {
            assert_eq!(without_room(segment), lines);
        }
    }
}
