//! The shell: on a terminal for people, on a pipe for scripts.
//!
//! On a terminal Ctrl-C stops the running command; Ctrl-D, or Ctrl-C twice at the prompt, leaves. On a pipe there is no
//! prompt, every command prints its result on stdout and its error with the line's number on stderr, and the exit code is
//! the first failure's, or 0.

mod editor;
mod pipe;
mod words;

use serde_json::json;
use tokio::runtime::Runtime;
use words::Word;

use crate::address::Address;
use crate::cli::job::{self, Job};
use crate::cli::out::{Out, Problem};
use crate::cli::{interrupted, runtime};
use crate::client::Client;
use crate::exit;
use crate::router::Settings;

/// How a shell is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster to connect to at once; none: the shell begins unconnected.
    pub seeds: Vec<Address>,
    /// How patient it is.
    pub settings: Settings,
    /// How results are printed.
    pub out: Out,
    /// Whether a person sits at the terminal; else commands are read from stdin.
    pub interactive: bool,
}

/// Opens a shell; it lasts until its input ends or says `quit`. Returns the exit code. Must not be called from inside an
/// asynchronous runtime: it brings its own.
#[must_use]
pub fn run(options: Options) -> u8 {
    let out = options.out;
    let result = runtime().and_then(|runtime| {
        let interactive = options.interactive;
        let mut shell = Shell { client: None, settings: options.settings, out, failed: None };
        if interactive { shell.talk(&runtime, options.seeds) } else { pipe::run(&mut shell, &runtime, options.seeds) }
    });
    result.unwrap_or_else(|problem| {
        out.fail("", &problem);
        problem.code
    })
}

struct Shell {
    client: Option<Client>,
    settings: Settings,
    out: Out,
    /// The first failure's exit code.
    failed: Option<u8>,
}

/// Whether the shell goes on.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    End,
}

impl Shell {
    fn talk(&mut self, runtime: &Runtime, seeds: Vec<Address>) -> Result<u8, Problem> {
        let mut prompt =
            editor::Prompt::new().map_err(|error| Problem::file(format!("cannot use the terminal: {error}")))?;
        self.out.note("Annulus shell. `help` lists the commands; Ctrl-D leaves.");
        if !seeds.is_empty()
            && let Err(problem) = runtime.block_on(self.connect(seeds))
        {
            self.out.fail("", &problem);
        }
        let mut cancelled = false;
        loop {
            let line = match prompt.read() {
                editor::Typed::Line(line) => line,
                editor::Typed::Cancelled if cancelled => break,
                editor::Typed::Cancelled => {
                    self.out.note("Ctrl-C once more leaves.");
                    cancelled = true;
                    continue;
                }
                editor::Typed::End => break,
            };
            cancelled = false;
            match runtime.block_on(self.obey(line.as_bytes())) {
                Ok(Next::More) => {}
                Ok(Next::End) => break,
                Err(problem) if problem == Problem::closed_pipe() => break,
                Err(problem) => self.out.fail("", &problem),
            }
        }
        prompt.save();
        // A person has seen the errors.
        Ok(exit::OK)
    }

    /// Does what one line says; Ctrl-C ends it.
    async fn obey(&mut self, line: &[u8]) -> Result<Next, Problem> {
        let word = words::parse(line).map_err(Problem::usage)?;
        tokio::select! {
            result = self.perform(word) => result,
            _ = tokio::signal::ctrl_c() => Err(interrupted()),
        }
    }

    async fn perform(&mut self, word: Word) -> Result<Next, Problem> {
        match word {
            Word::Nothing => {}
            Word::Connect(address) => self.connect(vec![address]).await?,
            Word::Disconnect => self.disconnect()?,
            Word::Job(job) => self.work(job).await?,
            Word::LogLevel(level) => self.log_level(level)?,
            Word::Help(of) => {
                let text = words::help(of.as_deref()).map_err(Problem::usage)?;
                self.out.say(&text, &json!({ "ok": true, "help": text }))?;
            }
            Word::Quit => return Ok(Next::End),
        }
        Ok(Next::More)
    }

    async fn work(&self, job: Job) -> Result<(), Problem> {
        let Some(client) = &self.client else {
            let message = "not connected: say `connect <host> <port>` first, or start with -s HOST:PORT";
            return Err(Problem { code: exit::UNREACHABLE, kind: "not_connected", message: message.to_owned() });
        };
        job::run(client, job, self.out).await
    }

    async fn connect(&mut self, seeds: Vec<Address>) -> Result<(), Problem> {
        let named = seeds.iter().map(Address::as_str).collect::<Vec<_>>().join(", ");
        let client = Client::connect(seeds, self.settings.clone()).await?;
        let servers = client.ring().servers().len();
        self.client = Some(client);
        let plural = if servers == 1 { "server" } else { "servers" };
        let text = format!("connected to {named}: a ring of {servers} {plural}");
        self.out.say(text, &json!({ "ok": true, "connected": named, "servers": servers }))
    }

    fn disconnect(&mut self) -> Result<(), Problem> {
        let text = if self.client.take().is_some() { "disconnected" } else { "not connected" };
        self.out.say(text, &json!({ "ok": true, "message": text }))
    }

    fn log_level(&self, level: Option<log::LevelFilter>) -> Result<(), Problem> {
        if let Some(level) = level {
            log::set_max_level(level);
        }
        let level = log::max_level().to_string();
        self.out.say(format!("log level {level}"), &json!({ "ok": true, "log_level": level }))
    }
}
