//! The commands: what COMMAND tells about them, and what the port checks before any of them runs.

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run {
    Append,
    Auth,
    Client,
    Cluster,
    Command,
    Config,
    DbSize,
    Del,
    Echo,
    Exists,
    Expire {
        millis: bool,
        date: bool,
    },
    Get,
    GetDel,
    GetEx,
    GetRange,
    GetSet,
    Hello,
    Increment {
        down: bool,
        by: bool,
    },
    IncrByFloat,
    Info,
    Keys,
    Lasts {
        millis: bool,
        date: bool,
    },
    Memory,
    MGet,
    MSet,
    Object,
    Persist,
    Ping,
    Quit,
    RandomKey,
    Reset,
    Scan,
    Select,
    Set,
    SetEx {
        millis: bool,
    },
    SetNx,
    Strlen,
    Time,
    Type,
    Wait,
    /// Known, and not done; the text says why.
    Refused(&'static str),
}

/// Where a command's keys are among its arguments: first, last, step; zeros: nowhere.
pub(super) type Keys = (i64, i64, i64);

/// A command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// As many arguments, the name included; negative: at least as many.
    pub(super) arity: i64,
    pub(super) flags: &'static [&'static str],
    pub(super) keys: Keys,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) summary: &'static str,
    /// Its arguments, as in Redis's documents.
    pub(super) syntax: &'static str,
    pub(super) run: Run,
}

impl Command {
    /// Whether it takes so many arguments, its name included.
    pub(super) fn takes(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }

    /// Whether it changes something.
    pub(super) fn is_write(&self) -> bool {
        self.flags.contains(&"write")
    }
}

const NONE: Keys = (0, 0, 0);
const ONE: Keys = (1, 1, 1);
const ALL: Keys = (1, -1, 1);
const PAIRS: Keys = (1, -1, 2);

const READ: &[&str] = &["readonly", "fast"];
const SLOW_READ: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const SLOW_WRITE: &[&str] = &["write", "denyoom"];
const REMOVE: &[&str] = &["write", "fast"];
const SELF: &[&str] = &["noscript", "loading", "stale", "fast"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const TOLD: &[&str] = &["loading", "stale"];

const NO_TRANSACTIONS: &str = "there are no transactions across keys: each command is atomic by itself";
const NO_CHANNELS: &str = "there are no channels";
const NO_SCRIPTS: &str = "there are no scripts";
const NO_FLUSH: &str = "nothing deletes all keys at once: walk with SCAN and delete";
const NO_MSETNX: &str = "several keys cannot be set as one: SET each with NX";

#[allow(clippy::too_many_arguments)] // a row of the table
const fn c(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: Keys,
    (group, since): (&'static str, &'static str),
    summary: &'static str,
    syntax: &'static str,
    run: Run,
) -> Command {
    Command { name, arity, flags, keys, group, since, summary, syntax, run }
}

const fn no(name: &'static str, arity: i64, group: &'static str, why: &'static str) -> Command {
    c(name, arity, SELF, NONE, (group, "1.0.0"), "Not supported.", "", Run::Refused(why))
}

/// All of them, by name.
#[rustfmt::skip] // a table: one line a command
pub(super) const COMMANDS: &[Command] = &[
    c("append", 3, WRITE, ONE, ("string", "2.0.0"), "Appends to a value; creates the key if it does not exist.", "key value", Run::Append),
    c("auth", -2, SELF, NONE, ("connection", "1.0.0"), "Authenticates the connection; there is no password.", "[username] password", Run::Auth),
    c("client", -2, SELF, NONE, ("connection", "2.4.0"), "Tells about and names this connection.", "subcommand [arg [arg ...]]", Run::Client),
    c("cluster", -2, TOLD, NONE, ("cluster", "3.0.0"), "Not supported: any server takes any key.", "subcommand [arg [arg ...]]", Run::Cluster),
    c("command", -1, TOLD, NONE, ("server", "2.8.13"), "Tells about commands.", "[subcommand [arg [arg ...]]]", Run::Command),
    c("config", -2, ADMIN, NONE, ("server", "2.0.0"), "Tells settings.", "subcommand [arg [arg ...]]", Run::Config),
    c("dbsize", 1, READ, NONE, ("server", "1.0.0"), "Counts the keys of the whole cluster.", "", Run::DbSize),
    c("decr", 2, WRITE, ONE, ("string", "1.0.0"), "Takes one from the integer value of a key.", "key", Run::Increment { down: true, by: false }),
    c("decrby", 3, WRITE, ONE, ("string", "1.0.0"), "Takes a number from the integer value of a key.", "key decrement", Run::Increment { down: true, by: true }),
    c("del", -2, REMOVE, ALL, ("generic", "1.0.0"), "Deletes keys, each on its own.", "key [key ...]", Run::Del),
    no("discard", 1, "transactions", NO_TRANSACTIONS),
    c("echo", 2, SELF, NONE, ("connection", "1.0.0"), "Returns the given string.", "message", Run::Echo),
    no("eval", -3, "scripting", NO_SCRIPTS),
    no("evalsha", -3, "scripting", NO_SCRIPTS),
    no("exec", 1, "transactions", NO_TRANSACTIONS),
    c("exists", -2, READ, ALL, ("generic", "1.0.0"), "Counts those of the keys that exist.", "key [key ...]", Run::Exists),
    c("expire", -3, REMOVE, ONE, ("generic", "1.0.0"), "Sets the time to live of a key in seconds.", "key seconds [NX | XX | GT | LT]", Run::Expire { millis: false, date: false }),
    c("expireat", -3, REMOVE, ONE, ("generic", "1.2.0"), "Sets the deadline of a key to a Unix time.", "key unix-time-seconds [NX | XX | GT | LT]", Run::Expire { millis: false, date: true }),
    c("expiretime", 2, READ, ONE, ("generic", "7.0.0"), "Returns the deadline of a key as a Unix time.", "key", Run::Lasts { millis: false, date: true }),
    no("fcall", -3, "scripting", NO_SCRIPTS),
    no("flushall", -1, "server", NO_FLUSH),
    no("flushdb", -1, "server", NO_FLUSH),
    c("get", 2, READ, ONE, ("string", "1.0.0"), "Returns the value of a key.", "key", Run::Get),
    c("getdel", 2, REMOVE, ONE, ("string", "6.2.0"), "Returns the value of a key and deletes the key.", "key", Run::GetDel),
    c("getex", -2, REMOVE, ONE, ("string", "6.2.0"), "Returns the value of a key after setting its time to live.", "key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]", Run::GetEx),
    c("getrange", 4, SLOW_READ, ONE, ("string", "2.4.0"), "Returns a part of the value of a key.", "key start end", Run::GetRange),
    c("getset", 3, WRITE, ONE, ("string", "1.0.0"), "Sets the value of a key and returns the one before.", "key value", Run::GetSet),
    c("hello", -1, SELF, NONE, ("connection", "6.0.0"), "Begins a connection with a version of the protocol.", "[protover [AUTH username password] [SETNAME clientname]]", Run::Hello),
    c("incr", 2, WRITE, ONE, ("string", "1.0.0"), "Adds one to the integer value of a key.", "key", Run::Increment { down: false, by: false }),
    c("incrby", 3, WRITE, ONE, ("string", "1.0.0"), "Adds a number to the integer value of a key.", "key increment", Run::Increment { down: false, by: true }),
    c("incrbyfloat", 3, WRITE, ONE, ("string", "2.6.0"), "Adds a number to the floating-point value of a key.", "key increment", Run::IncrByFloat),
    c("info", -1, TOLD, NONE, ("server", "1.0.0"), "Tells about this server.", "[section [section ...]]", Run::Info),
    c("keys", 2, SLOW_READ, NONE, ("generic", "1.0.0"), "Returns all keys that match a pattern, up to 8 MiB of them.", "pattern", Run::Keys),
    c("memory", -2, SLOW_READ, NONE, ("server", "4.0.0"), "Tells what a record takes in memory.", "subcommand [arg [arg ...]]", Run::Memory),
    c("mget", -2, READ, ALL, ("string", "1.0.0"), "Returns the values of keys, each on its own.", "key [key ...]", Run::MGet),
    no("monitor", 1, "server", "requests are not shown to others: see /metrics of the admin port"),
    c("mset", -3, SLOW_WRITE, PAIRS, ("string", "1.0.1"), "Sets the values of keys, each on its own.", "key value [key value ...]", Run::MSet),
    no("msetnx", -3, "string", NO_MSETNX),
    no("multi", 1, "transactions", NO_TRANSACTIONS),
    c("object", -2, SLOW_READ, NONE, ("generic", "2.2.3"), "Tells about a record.", "subcommand [arg [arg ...]]", Run::Object),
    c("persist", 2, REMOVE, ONE, ("generic", "2.2.0"), "Takes the deadline of a key away.", "key", Run::Persist),
    c("pexpire", -3, REMOVE, ONE, ("generic", "2.6.0"), "Sets the time to live of a key in milliseconds.", "key milliseconds [NX | XX | GT | LT]", Run::Expire { millis: true, date: false }),
    c("pexpireat", -3, REMOVE, ONE, ("generic", "2.6.0"), "Sets the deadline of a key to a Unix time in milliseconds.", "key unix-time-milliseconds [NX | XX | GT | LT]", Run::Expire { millis: true, date: true }),
    c("pexpiretime", 2, READ, ONE, ("generic", "7.0.0"), "Returns the deadline of a key as a Unix time in milliseconds.", "key", Run::Lasts { millis: true, date: true }),
    c("ping", -1, SELF, NONE, ("connection", "1.0.0"), "Returns PONG, or the given string.", "[message]", Run::Ping),
    c("psetex", 4, SLOW_WRITE, ONE, ("string", "2.6.0"), "Sets the value and the time to live of a key in milliseconds.", "key milliseconds value", Run::SetEx { millis: true }),
    no("psubscribe", -2, "pubsub", NO_CHANNELS),
    c("pttl", 2, READ, ONE, ("generic", "2.6.0"), "Returns the time to live of a key in milliseconds.", "key", Run::Lasts { millis: true, date: false }),
    no("publish", 3, "pubsub", NO_CHANNELS),
    c("quit", -1, SELF, NONE, ("connection", "1.0.0"), "Closes the connection.", "", Run::Quit),
    c("randomkey", 1, SLOW_READ, NONE, ("generic", "1.0.0"), "Returns some key.", "", Run::RandomKey),
    c("reset", 1, SELF, NONE, ("connection", "6.2.0"), "Makes the connection as it was in the beginning.", "", Run::Reset),
    c("scan", -2, SLOW_READ, NONE, ("generic", "2.8.0"), "Walks through the keys of the whole cluster.", "cursor [MATCH pattern] [COUNT count] [TYPE type]", Run::Scan),
    c("select", 2, SELF, NONE, ("connection", "1.0.0"), "Chooses the database: there is one, 0.", "index", Run::Select),
    c("set", -3, SLOW_WRITE, ONE, ("string", "1.0.0"), "Sets the value of a key.", "key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]", Run::Set),
    c("setex", 4, SLOW_WRITE, ONE, ("string", "2.0.0"), "Sets the value and the time to live of a key.", "key seconds value", Run::SetEx { millis: false }),
    c("setnx", 3, WRITE, ONE, ("string", "1.0.0"), "Sets the value of a key that does not exist.", "key value", Run::SetNx),
    no("ssubscribe", -2, "pubsub", NO_CHANNELS),
    c("strlen", 2, READ, ONE, ("string", "2.2.0"), "Returns the length of a value.", "key", Run::Strlen),
    no("subscribe", -2, "pubsub", NO_CHANNELS),
    c("substr", 4, SLOW_READ, ONE, ("string", "1.0.0"), "Returns a part of the value of a key.", "key start end", Run::GetRange),
    no("swapdb", 3, "server", "there is one database, 0"),
    c("time", 1, TOLD, NONE, ("server", "2.6.0"), "Returns this server's time.", "", Run::Time),
    c("touch", -2, READ, ALL, ("generic", "3.2.1"), "Counts those of the keys that exist.", "key [key ...]", Run::Exists),
    c("ttl", 2, READ, ONE, ("generic", "1.0.0"), "Returns the time to live of a key in seconds.", "key", Run::Lasts { millis: false, date: false }),
    c("type", 2, READ, ONE, ("generic", "1.0.0"), "Returns the type of a value: string.", "key", Run::Type),
    c("unlink", -2, REMOVE, ALL, ("generic", "4.0.0"), "Deletes keys, each on its own.", "key [key ...]", Run::Del),
    no("unsubscribe", -1, "pubsub", NO_CHANNELS),
    no("unwatch", 1, "transactions", NO_TRANSACTIONS),
    c("wait", 3, &["noscript"], NONE, ("generic", "3.0.0"), "Tells how many further copies every acknowledged write is on.", "numreplicas timeout", Run::Wait),
    no("watch", -2, "transactions", NO_TRANSACTIONS),
];

const LETTERS: usize = 26;

/// Where the commands of each letter begin, and where those of the last one end: a name is compared with few others.
const BEGINS: [usize; LETTERS + 1] = {
    let mut begins = [COMMANDS.len(); LETTERS + 1];
    let mut at = COMMANDS.len();
    let mut letter = LETTERS;
    while letter > 0 {
        letter -= 1;
        while at > 0 && COMMANDS[at - 1].name.as_bytes()[0] as usize >= b'a' as usize + letter {
            at -= 1;
        }
        begins[letter] = at;
    }
    begins
};

/// The command of this name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    let letter = usize::from(name.first()?.to_ascii_lowercase().wrapping_sub(b'a'));
    let of_letter = BEGINS.get(letter).zip(BEGINS.get(letter + 1)).map(|(from, to)| &COMMANDS[*from..*to])?;
    of_letter.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_command_is_found() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for command in COMMANDS {
            let found = find(command.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, command.name);
        }
        for unknown in [&b""[..], b"hset", b"zadd", b"{get", b"@get", b"ge", b"gets", b"\xffget", &[b'a'; 100]] {
            assert!(find(unknown).is_none(), "{unknown:?}");
        }
    }

    #[test]
    fn arity_is_exact_or_a_minimum() {
        let [get, set] = [find(b"get").unwrap(), find(b"set").unwrap()];
        assert!(get.takes(2) && !get.takes(3) && !set.takes(2) && set.takes(3) && set.takes(9));
    }
}
