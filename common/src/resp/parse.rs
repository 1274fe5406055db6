//! Bytes to commands: arrays of bulk strings, and inline commands.
//!
//! A parser holds no bytes, only where the arguments of an unfinished command lie; so an argument is looked at once, however
//! slowly the rest comes. What belongs to an unfinished command stays with the caller, at most [`Limits::whole`] bytes and
//! one header. A command over the limits is thrown away as it comes, and the stream goes on behind it; a stream that is
//! none of Redis's cannot go on and is [`Parsed::Broken`], as Redis has it.

use memchr::memchr;

use super::inline;

/// The most arguments of one command, as in Redis.
const MOST_ARGS: u64 = 1 << 20;
/// The longest bulk that Redis lets a client announce by default; more is no length.
const LONGEST_BULK: u64 = 512 << 20;
/// The longest inline command and the longest header, as in Redis.
const LINE: usize = 64 * 1024;
/// Room for arguments that is kept between commands.
const KEEP: usize = 64;

/// How large commands may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest argument.
    pub argument: usize,
    /// All bytes of one command.
    pub whole: usize,
}

/// Where an argument lies, in the input or in what an inline command was unquoted to.
pub type Span = (u32, u32);

/// What a look at the input found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// No whole command yet.
    More,
    /// Bytes without a command: an empty line, or part of what was too large.
    Skipped,
    /// A command: see [`CommandParser::args`].
    Command,
    /// A command that is too large. It is skipped; the stream goes on behind it.
    TooLarge(TooLarge),
    /// Not Redis's protocol: what to answer before hanging up, without the `ERR` before it.
    Broken(String),
}

/// Which limit a command is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooLarge {
    /// An argument of so many bytes.
    Argument(u64),
    /// All of it.
    Whole,
}

/// Finds the commands in a stream of bytes.
#[derive(Clone, Debug)]
pub struct CommandParser {
    limits: Limits,
    state: State,
    /// The arguments found so far.
    spans: Vec<Span>,
    /// How much of the unfinished command was understood.
    at: usize,
    /// What an inline command was unquoted to; its spans lie in here.
    unquoted: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before a command.
    Start,
    /// So many arguments are missing.
    Args(u64),
    /// So many bytes of an argument are thrown away, and then so many arguments.
    Skip { bytes: u64, args: u64 },
}

/// A command's arguments, its name first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// How many, with the name. Never zero for what a parser found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is not even a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`; the name is 0. Empty if there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> &'a [u8] {
        self.spans.get(index).map_or(&[], |(from, to)| &self.bytes[*from as usize..*to as usize])
    }

    /// The arguments from `index` on.
    pub fn from(&self, index: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (bytes, spans) = (self.bytes, self.spans.get(index..).unwrap_or_default());
        spans.iter().map(move |(from, to)| &bytes[*from as usize..*to as usize])
    }

    /// Those arguments as arguments of their own.
    #[must_use]
    pub fn tail(&self, index: usize) -> Args<'a> {
        Args { bytes: self.bytes, spans: self.spans.get(index..).unwrap_or_default() }
    }
}

/// A number at the start of some bytes, up to its line end.
enum Number {
    Unfinished,
    None,
    /// And how many bytes it and its line end take.
    Is(i64, usize),
}

impl CommandParser {
    /// At the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> CommandParser {
        CommandParser { limits, state: State::Start, spans: Vec::new(), at: 0, unquoted: None }
    }

    /// The caller goes back to the beginning of a command that it was given already, or of the one after that.
    pub fn rewind(&mut self) {
        self.spans.clear();
        (self.state, self.at, self.unquoted) = (State::Start, 0, None);
    }

    /// What stands behind the name of a command with this name, if that and so many arguments behind it are what was found
    /// last, and they stand in the input as they are.
    #[must_use]
    pub fn plain<'a, const N: usize>(&self, input: &'a [u8], name: &[u8]) -> Option<[&'a [u8]; N]> {
        let at = |(from, to): &Span| &input[*from as usize..*to as usize];
        let (first, rest) = self.spans.split_first().filter(|_| self.unquoted.is_none())?;
        let spans: &[Span; N] = rest.try_into().ok()?;
        at(first).eq_ignore_ascii_case(name).then(|| std::array::from_fn(|index| at(&spans[index])))
    }

    /// Looks for the first command in `input`. The number says how many bytes are done with: the next call's input must
    /// begin right behind them. A caller that is not ready for a command may leave its bytes where they are, and finds it
    /// again.
    pub fn next(&mut self, input: &[u8]) -> (usize, Parsed) {
        match self.state {
            State::Start => self.start(input),
            State::Args(missing) => self.args_from(input, missing),
            State::Skip { bytes, args } => self.skip(input, bytes, args),
        }
    }

    /// The arguments of the command just found. `input` must be what [`CommandParser::next`] was given.
    #[must_use]
    pub fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        Args { bytes: self.unquoted.as_deref().unwrap_or(input), spans: &self.spans }
    }

    /// The bytes held here.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.unquoted.as_ref().map_or(0, Vec::capacity)
    }

    fn start(&mut self, input: &[u8]) -> (usize, Parsed) {
        self.spans.clear();
        if self.spans.capacity() > KEEP {
            self.spans = Vec::new();
        }
        (self.at, self.unquoted) = (0, None);
        match input.first() {
            None => (0, Parsed::More),
            Some(b'*') => match number(&input[1..]) {
                Number::Unfinished if input.len() > LINE => broken("too big mbulk count string"),
                Number::Unfinished => (0, Parsed::More),
                Number::Is(count, used) if count <= 0 => (1 + used, Parsed::Skipped),
                Number::Is(count, used) if count.unsigned_abs() <= MOST_ARGS => {
                    self.at = 1 + used;
                    self.args_from(input, count.unsigned_abs())
                }
                Number::None | Number::Is(..) => broken("invalid multibulk length"),
            },
            Some(_) => self.inline(input),
        }
    }

    fn inline(&mut self, input: &[u8]) -> (usize, Parsed) {
        let Some(end) = memchr(b'\n', &input[..input.len().min(LINE)]) else {
            return if input.len() >= LINE { broken("too big inline request") } else { (0, Parsed::More) };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let mut unquoted = Vec::new();
        if !inline::split(line, &mut unquoted, &mut self.spans) {
            return broken("unbalanced quotes in request");
        }
        self.unquoted = Some(unquoted);
        if self.spans.is_empty() {
            return (end + 1, Parsed::Skipped);
        }
        if let Some((from, to)) = self.spans.iter().find(|(from, to)| (to - from) as usize > self.limits.argument) {
            return (end + 1, Parsed::TooLarge(TooLarge::Argument(u64::from(to - from))));
        }
        (end + 1, Parsed::Command)
    }

    fn args_from(&mut self, input: &[u8], mut missing: u64) -> (usize, Parsed) {
        while missing > 0 {
            let rest = &input[self.at..];
            let (length, used) = match rest.first() {
                None => return self.unfinished(missing),
                Some(b'$') => match number(&rest[1..]) {
                    Number::Unfinished if rest.len() > LINE => return self.broken("too big bulk count string"),
                    Number::Unfinished => return self.unfinished(missing),
                    Number::Is(length, used) if length >= 0 && length.unsigned_abs() <= LONGEST_BULK => {
                        (length.unsigned_abs(), used)
                    }
                    Number::None | Number::Is(..) => return self.broken("invalid bulk length"),
                },
                Some(other) => return self.broken(&expected(*other)),
            };
            let from = self.at + 1 + used;
            let end = from as u64 + length;
            if length > self.limits.argument as u64 || end > self.limits.whole as u64 {
                self.state = State::Skip { bytes: length + 2, args: missing - 1 };
                let over = length > self.limits.argument as u64;
                return (from, Parsed::TooLarge(if over { TooLarge::Argument(length) } else { TooLarge::Whole }));
            }
            // Within the limits, so within usize; and a span's u32, since no limit is beyond it.
            let end = usize::try_from(end).unwrap_or(usize::MAX);
            if input.len() < end + 2 {
                return self.unfinished(missing);
            }
            self.spans.push((u32::try_from(from).unwrap_or(u32::MAX), u32::try_from(end).unwrap_or(u32::MAX)));
            self.at = end + 2;
            missing -= 1;
        }
        self.state = State::Start;
        (self.at, Parsed::Command)
    }

    fn unfinished(&mut self, missing: u64) -> (usize, Parsed) {
        self.state = State::Args(missing);
        (0, Parsed::More)
    }

    fn broken(&mut self, what: &str) -> (usize, Parsed) {
        self.state = State::Start;
        broken(what)
    }

    /// Throws away what is left of a command that is too large. Each call gets on or says that there must be more input.
    fn skip(&mut self, input: &[u8], bytes: u64, args: u64) -> (usize, Parsed) {
        if bytes > 0 {
            let gone = (input.len() as u64).min(bytes);
            self.state = State::Skip { bytes: bytes - gone, args };
            let gone = usize::try_from(gone).unwrap_or(input.len());
            return (gone, if gone == 0 { Parsed::More } else { Parsed::Skipped });
        }
        if args == 0 {
            self.state = State::Start;
            return (0, Parsed::Skipped);
        }
        match input.first() {
            None => (0, Parsed::More),
            Some(b'$') => match number(&input[1..]) {
                Number::Unfinished if input.len() > LINE => self.broken("too big bulk count string"),
                Number::Unfinished => (0, Parsed::More),
                Number::Is(length, used) if length >= 0 && length.unsigned_abs() <= LONGEST_BULK => {
                    self.state = State::Skip { bytes: length.unsigned_abs() + 2, args: args - 1 };
                    (1 + used, Parsed::Skipped)
                }
                Number::None | Number::Is(..) => self.broken("invalid bulk length"),
            },
            Some(other) => self.broken(&expected(*other)),
        }
    }
}

fn broken(what: &str) -> (usize, Parsed) {
    (0, Parsed::Broken(format!("Protocol error: {what}")))
}

fn expected(other: u8) -> String {
    format!("expected '$', got '{}'", if other.is_ascii_graphic() || other == b' ' { char::from(other) } else { '?' })
}

/// Reads up to CR LF.
fn number(bytes: &[u8]) -> Number {
    let (negative, start) = if bytes.first() == Some(&b'-') { (true, 1) } else { (false, 0) };
    let mut value: i64 = 0;
    let mut at = start;
    while let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) {
        // Nineteen digits and more are longer than anything is; saturated, they are refused as too large.
        value = value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        at += 1;
    }
    match (bytes.get(at), bytes.get(at + 1)) {
        (None, _) | (Some(b'\r'), None) => Number::Unfinished,
        (Some(b'\r'), Some(b'\n')) if at > start => Number::Is(if negative { -value } else { value }, at + 2),
        _ => Number::None,
    }
}
