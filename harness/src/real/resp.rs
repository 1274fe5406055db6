//! A Redis client of our own, so that the product's codec is not what the product is tested with. Real clients are in
//! `harness/clients/`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any bounded wait of a server.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, RESP2.
#[derive(Debug)]
pub struct Resp {
    reader: BufReader<TcpStream>,
}

impl Resp {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> io::Result<Resp> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Resp { reader: BufReader::new(stream) })
    }

    /// The reply to a command whose words have no blanks: a string or number as it is, `nil`, an error behind a `-`, the
    /// elements of a list with blanks between them.
    ///
    /// # Errors
    /// The connection is gone or silent, or what came is no reply.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        self.reader.get_mut().write_all(encoded(command).as_bytes())?;
        self.reply()
    }

    /// The replies to commands that are sent at once.
    ///
    /// # Errors
    /// As [`Resp::ask`].
    pub fn ask_all(&mut self, commands: &[String]) -> io::Result<Vec<String>> {
        let bytes: String = commands.iter().map(|command| encoded(command)).collect();
        self.reader.get_mut().write_all(bytes.as_bytes())?;
        commands.iter().map(|_| self.reply()).collect()
    }

    fn reply(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let nonsense = || io::Error::new(io::ErrorKind::InvalidData, line.clone());
        let rest = line.trim_end().get(1..).ok_or_else(nonsense)?;
        let number = || rest.parse::<i64>().map_err(|_| nonsense());
        match line.as_bytes()[0] {
            b'+' | b':' => Ok(rest.to_owned()),
            b'-' => Ok(line.trim_end().to_owned()),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Ok("nil".into()),
                Ok(length) => {
                    let mut value = vec![0; length + 2];
                    self.reader.read_exact(&mut value)?;
                    value.truncate(length);
                    Ok(String::from_utf8_lossy(&value).into_owned())
                }
            },
            b'*' => {
                let elements: io::Result<Vec<String>> = (0..number()?).map(|_| self.reply()).collect();
                Ok(elements?.join(" "))
            }
            _ => Err(nonsense()),
        }
    }
}

fn encoded(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    bytes
}
