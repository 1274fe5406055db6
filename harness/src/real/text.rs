//! A text client of its own, so that the product's client and codec are not what the product is tested with.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// Longer than any bounded wait of a server.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, one line each way; pipelining by [`Text::send`] and [`Text::receive`].
#[derive(Debug)]
pub struct Text {
    reader: BufReader<TcpStream>,
}

impl Text {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> io::Result<Text> {
        Text::connect_within(address, PATIENCE)
    }

    /// Connects, or gives up after `patience`.
    ///
    /// # Errors
    /// Nobody listens there, or nobody says so.
    pub fn connect_within(address: &str, patience: Duration) -> io::Result<Text> {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Text { reader: BufReader::with_capacity(1 << 16, stream) })
    }

    /// Answers later than this are errors.
    ///
    /// # Errors
    /// The system refuses.
    pub fn patience(&mut self, patience: Duration) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(patience))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// One reply line, without its end.
    ///
    /// # Errors
    /// The connection is gone or silent.
    pub fn receive(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// One request, one reply.
    ///
    /// # Errors
    /// The connection is gone or silent.
    pub fn ask(&mut self, request: &str) -> io::Result<String> {
        self.send(format!("{request}\r\n").as_bytes())?;
        self.receive()
    }

    /// Many requests, sent in chunks so that neither side's buffers fill up, and their replies.
    ///
    /// # Errors
    /// The connection is gone or silent.
    pub fn ask_all(&mut self, requests: &[String]) -> io::Result<Vec<String>> {
        let mut replies = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(256) {
            self.send(chunk.iter().map(|request| format!("{request}\r\n")).collect::<String>().as_bytes())?;
            for _ in chunk {
                replies.push(self.receive()?);
            }
        }
        Ok(replies)
    }

    /// What this server coordinates, or with `read` what it may answer reads for, of the whole ring.
    ///
    /// # Errors
    /// The connection is gone, or the answer has another shape.
    pub fn keyrange(&mut self, read: bool) -> io::Result<Keyrange> {
        let (word, expected) =
            if read { ("keyrange_read", "KEYRANGE_READ_SUCCESS ") } else { ("keyrange", "KEYRANGE_SUCCESS ") };
        let reply = self.ask(word)?;
        let parsed = reply.strip_prefix(expected).and_then(Keyrange::parse);
        parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, reply))
    }
}

/// A parsed keyrange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keyrange(pub Vec<Arc>);

/// One triple: both ends inclusive, wrapping once at most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arc {
    /// The first position.
    pub from: u128,
    /// The last position.
    pub to: u128,
    /// `host:port`.
    pub server: String,
}

impl Arc {
    /// Whether the position lies in it.
    #[must_use]
    pub fn contains(&self, position: u128) -> bool {
        if self.from <= self.to {
            (self.from..=self.to).contains(&position)
        } else {
            position >= self.from || position <= self.to
        }
    }
}

impl Keyrange {
    /// `from,to,host:port;` one after another; `;` after the last too.
    #[must_use]
    pub fn parse(triples: &str) -> Option<Keyrange> {
        let triples = triples.strip_suffix(';')?.split(';');
        triples.map(parse_triple).collect::<Option<Vec<Arc>>>().map(Keyrange)
    }

    /// Who is named for a key, in the order of the triples.
    #[must_use]
    pub fn servers(&self, key: &str) -> Vec<&str> {
        let position = position(key);
        self.0.iter().filter(|arc| arc.contains(position)).map(|arc| arc.server.as_str()).collect()
    }
}

fn parse_triple(triple: &str) -> Option<Arc> {
    let mut parts = triple.splitn(3, ',');
    let (from, to, server) = (parts.next()?, parts.next()?, parts.next()?);
    if from.len() != 32 || to.len() != 32 {
        return None;
    }
    let number = |hex: &str| u128::from_str_radix(hex, 16).ok();
    Some(Arc { from: number(from)?, to: number(to)?, server: server.to_owned() })
}

/// Where a key lies.
#[must_use]
pub fn position(key: &str) -> u128 {
    common::position::Position::of(key.as_bytes()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyrange_names_who_is_responsible() {
        let half = format!("{:032x}", u128::MAX / 2);
        let rest = format!("{:032x}", u128::MAX / 2 + 1);
        let all = format!("{:032x}", u128::MAX);
        let keyrange = Keyrange::parse(&format!("{:032x},{half},a:1;{rest},{all},b:2;", 0)).unwrap();
        // MD5("a") begins with 0c, MD5("b") with 92.
        assert_eq!(keyrange.servers("a"), ["a:1"]);
        assert_eq!(keyrange.servers("b"), ["b:2"]);
        assert_eq!(Keyrange::parse("0,1,a:1;"), None);
        assert_eq!(Keyrange::parse(&format!("{rest},{all},b:2")), None);
    }

    #[test]
    fn an_arc_may_wrap() {
        let arc = Arc { from: 10, to: 3, server: String::new() };
        assert!(arc.contains(0) && arc.contains(10) && arc.contains(u128::MAX) && !arc.contains(5));
    }
}
