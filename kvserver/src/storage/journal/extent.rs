//! How far a segment reaches: its lines, and behind them zeros that the next groups are written over.
//!
//! A sync that changes neither the file's length nor its blocks is one write, and no commit of the file system's own journal,
//! which costs a third to a half less. A start takes the zeros for a write that was cut off, and cuts them away.

/// So many zeros are written behind a group that reaches the end of the file.
pub const AHEAD: usize = 512 << 10;
/// A group of at least an eighth of that brings no zeros: writing them would cost more than they save.
const LARGE: usize = 8;

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

    /// Whether there are zeros behind the lines.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.reaches > self.length
    }

    /// Lengthens a group by zeros, if there are to be some behind it.
    pub fn pad(&self, group: &mut Vec<u8>) {
        if self.length + group.len() as u64 > self.reaches && group.len() < self.ahead / LARGE {
            group.resize(group.len() + self.ahead, 0);
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
    fn zeros_come_with_a_group_that_reaches_the_end() {
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
}
