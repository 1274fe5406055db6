//! How far a segment reaches: its lines, and behind them empty lines that the next groups are written over.
//!
//! A sync that changes neither the file's length nor its blocks is one write, and nothing of the file system's own. A start
//! takes the empty lines for a write that was cut off, and cuts them away. They are not zeros because people read this
//! file, and `jq`.
//!
//! Where there is room, a group is written in whole blocks: from the beginning of the block in which the lines end, with
//! what that block has already, to the end of the last one, with room behind the lines. Such writes need not go through the system's cache
//! (see `common::disk`). What a block had is written over by the same bytes: a write that is cut off anywhere leaves them as
//! they are.

/// Groups are written in multiples of this where there is room for it.
pub use common::disk::BLOCK;

/// So much room is made behind a group that reaches the end of the file. Of the order of what the disk writes in the time of a
/// sync: with more, those whose group makes the room wait longer; with less, it is made more often.
pub const AHEAD: usize = 128 << 10;
/// A group of at least half of that brings no room: making it would cost more than it saves.
const LARGE: usize = 2;
/// What the room consists of.
const ROOM: u8 = b'\n';
/// A frame's memory above this is given back.
const FRAME_KEPT: usize = 256 << 10;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The length as far as it is known to be whole lines.
    length: u64,
    /// The file's length.
    reaches: u64,
    ahead: usize,
    /// What the block in which the lines end has of them.
    tail: Vec<u8>,
    /// The last group as it was to be written, from a place in memory on that is a multiple of a block's size: so it can be
    /// written without being copied once more.
    frame: Vec<u8>,
}

impl Extent {
    /// A new segment that consists of its head.
    #[must_use]
    pub fn new(head: &[u8], ahead: usize) -> Extent {
        let mut extent = Extent { length: 0, reaches: 0, ahead, tail: Vec::new(), frame: Vec::new() };
        extent.wrote(head, 0, head.len());
        extent
    }

    /// Where the lines end.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether there is room behind the lines.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.reaches > self.length
    }

    /// What is to be written where, for these lines to follow those that are there. `more`: room may be made, if there is
    /// not enough and there is to be some.
    pub fn frame<'a>(&'a mut self, lines: &'a [u8], more: bool) -> (u64, &'a [u8]) {
        let end = self.length + lines.len() as u64;
        let mut until = end.next_multiple_of(BLOCK);
        if until > self.reaches {
            if !more {
                return (self.length, lines);
            }
            if lines.len() < self.ahead / LARGE {
                until = (end + self.ahead as u64).next_multiple_of(BLOCK);
            }
        }
        let room = usize::try_from(until - end).unwrap_or(0);
        let bytes = self.tail.len() + lines.len() + room;
        self.frame.clear();
        self.frame.shrink_to(FRAME_KEPT);
        self.frame.reserve(bytes + BLOCK as usize);
        let skip = self.frame.as_ptr().align_offset(BLOCK as usize);
        self.frame.resize(skip, ROOM);
        self.frame.extend_from_slice(&self.tail);
        self.frame.extend_from_slice(lines);
        self.frame.resize(skip + bytes, ROOM);
        (self.length - self.tail.len() as u64, &self.frame[skip..])
    }

    /// Whether so many bytes written there make the file longer than these lines need.
    #[must_use]
    pub fn makes_room(&self, lines: usize, at: u64, bytes: usize) -> bool {
        let until = at + bytes as u64;
        until > self.reaches && until > self.length + lines as u64
    }

    /// These lines were written, by so many bytes there.
    pub fn wrote(&mut self, lines: &[u8], at: u64, bytes: usize) {
        self.reaches = self.reaches.max(at + bytes as u64);
        self.length += lines.len() as u64;
        let last = usize::try_from(self.length % BLOCK).unwrap_or(0);
        if lines.len() >= last {
            self.tail.clear();
            self.tail.extend_from_slice(&lines[lines.len() - last..]);
        } else {
            self.tail.extend_from_slice(lines);
        }
    }

    /// The file was cut to where its lines end.
    pub fn cut(&mut self) {
        self.reaches = self.length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment, and what it has to read like.
    struct Play {
        extent: Extent,
        file: Vec<u8>,
        lines: Vec<u8>,
        written: u8,
    }

    impl Play {
        fn new(head: usize, ahead: usize) -> Play {
            let head = vec![b'h'; head];
            Play { extent: Extent::new(&head, ahead), file: head.clone(), lines: head, written: 0 }
        }

        /// Writes a group of so many bytes; returns from where and how much.
        fn write(&mut self, group: usize, more: bool) -> (u64, usize) {
            self.written = self.written % 100 + 100;
            self.written += 1;
            let group = vec![self.written; group];
            let (at, bytes) = self.extent.frame(&group, more);
            let from = usize::try_from(at).unwrap();
            let before = self.file.clone();
            self.file.resize(self.file.len().max(from + bytes.len()), 0);
            self.file[from..from + bytes.len()].copy_from_slice(bytes);
            let bytes = bytes.len();
            let grown = self.file.len() > before.len();
            let made = self.extent.makes_room(group.len(), at, bytes);
            assert_eq!(made, grown && self.file.len() > self.lines.len() + group.len());
            assert_eq!(self.file[..self.lines.len()], self.lines, "what was there stays as it is");
            self.extent.wrote(&group, at, bytes);
            self.lines.extend(group);
            let (lines, room) = self.file.split_at(self.lines.len());
            assert!(lines == self.lines && room.iter().all(|byte| *byte == ROOM), "{at}");
            assert_eq!(self.extent.length(), self.lines.len() as u64);
            assert_eq!(self.extent.has_room(), self.file.len() > self.lines.len());
            (at, bytes)
        }

        fn cut(&mut self) {
            self.file.truncate(self.lines.len());
            self.extent.cut();
        }
    }

    #[test]
    fn groups_are_written_in_whole_blocks_and_make_room_at_the_end() {
        let mut play = Play::new(10, 8192);
        assert!(!play.extent.has_room());
        assert_eq!(play.write(50, true), (0, 12_288));
        assert_eq!(play.write(4000, true), (0, 4096));
        assert_eq!(play.write(36, true), (0, 4096), "to the block's last byte");
        assert_eq!(play.write(7000, true), (4096, 8192));
        assert_eq!(play.write(1192, true), (8192, 4096), "to the room's last byte");
        assert!(!play.extent.has_room());
        assert_eq!(play.write(1, true), (12_288, 12_288));
        assert_eq!(
            play.write(100_000, true),
            (12_288, 102_400),
            "a large one makes no room but that of its last block"
        );
        play.cut();
        assert_eq!(play.write(100, false), (112_289, 100), "and without room, nothing but lines is written");
        assert_eq!(play.write(5, false), (112_389, 5));
        assert_eq!(play.write(5, true).0, 110_592, "until some may be made again");
    }

    #[test]
    fn whatever_is_written_when_the_file_reads_as_its_lines() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let mut play = Play::new(rng.usize(1..5000), 4096 * rng.usize(1..5));
            for _ in 0..60 {
                let most = if rng.u8(0..5) == 0 { 30_000 } else { 3000 };
                play.write(rng.usize(1..most), rng.u8(0..4) > 0);
                if rng.u8(0..10) == 0 {
                    play.cut();
                }
            }
        }
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
