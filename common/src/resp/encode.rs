//! Replies to bytes, in the version that the client speaks.
//!
//! Each method appends one value. What RESP2 has no type for goes out as Redis sends it there: a map as a flat array, a
//! double as a string, a truth as an integer.

use bytes::{BufMut, BytesMut};

/// The version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Proto {
    /// RESP2, which every connection begins with.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

/// Where replies go.
#[derive(Debug)]
pub struct Out<'a> {
    bytes: &'a mut BytesMut,
    proto: Proto,
}

impl<'a> Out<'a> {
    /// Appends to `bytes`.
    pub fn new(bytes: &'a mut BytesMut, proto: Proto) -> Out<'a> {
        Out { bytes, proto }
    }

    /// The version spoken.
    #[must_use]
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.bytes.put_slice(b"+OK\r\n");
    }

    /// A short text without line ends.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error; its first word is its kind. Line ends would break the stream and become blanks.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    /// An error that repeats what a client sent.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.bytes.put_u8(b'-');
        let start = self.bytes.len();
        self.bytes.put_slice(text);
        for byte in &mut self.bytes[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.bytes.put_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// A count.
    pub fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Any bytes.
    pub fn bulk(&mut self, value: &[u8]) {
        self.bytes.reserve(value.len() + 32);
        self.length(b'$', value.len());
        self.bytes.put_slice(value);
        self.bytes.put_slice(b"\r\n");
    }

    /// Bytes, or none.
    pub fn bulk_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.null(),
        }
    }

    /// No value.
    pub fn null(&mut self) {
        self.bytes.put_slice(if self.proto == Proto::Three { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No list.
    pub fn null_array(&mut self) {
        self.bytes.put_slice(if self.proto == Proto::Three { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// So many values follow.
    pub fn array(&mut self, length: usize) {
        self.length(b'*', length);
    }

    /// So many different values follow.
    pub fn set(&mut self, length: usize) {
        self.length(if self.proto == Proto::Three { b'~' } else { b'*' }, length);
    }

    /// So many pairs of values follow.
    pub fn map(&mut self, pairs: usize) {
        match self.proto {
            Proto::Three => self.length(b'%', pairs),
            Proto::Two => self.length(b'*', pairs * 2),
        }
    }

    /// Text for people.
    pub fn verbatim(&mut self, text: &str) {
        match self.proto {
            Proto::Two => self.bulk(text.as_bytes()),
            Proto::Three => {
                self.length(b'=', text.len() + 4);
                self.bytes.put_slice(b"txt:");
                self.bytes.put_slice(text.as_bytes());
                self.bytes.put_slice(b"\r\n");
            }
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.bytes.put_u8(kind);
        self.bytes.put_slice(text);
        self.bytes.put_slice(b"\r\n");
    }

    fn length(&mut self, kind: u8, length: usize) {
        self.number(kind, i64::try_from(length).unwrap_or(i64::MAX));
    }

    fn number(&mut self, kind: u8, value: i64) {
        self.bytes.reserve(24);
        self.bytes.put_u8(kind);
        let mut room = [0; 20];
        self.bytes.put_slice(integer_text(value, &mut room));
        self.bytes.put_slice(b"\r\n");
    }
}

/// The digits of an integer, without an allocation: there is one in every reply.
pub fn integer_text(value: i64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        room[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        room[at] = b'-';
    }
    &room[at..]
}
