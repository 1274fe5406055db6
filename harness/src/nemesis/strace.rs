//! Faults at system calls of the unmodified product, by `strace`'s injection.
//!
//! A kill is delivered at the entry of the call, which then does not happen: *between* any two calls is *before* the
//! second. strace counts calls for each thread; the journal, the checkpoint and each of the runtime's threads have their
//! own. Errors and delays use `--seccomp-bpf`, which leaves all other calls at full speed; kills cannot (strace does not
//! deliver signals at its stops), so the product is slower there.

use std::path::{Path, PathBuf};

use super::arena::Wrap;

/// Whether strace is here and may be used.
#[must_use]
pub fn usable() -> bool {
    super::mounts::run(&["strace", "-qq", "-e", "trace=none", "true"]).is_ok()
}

/// What is done at a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The process dies before it.
    Kill,
    /// It fails with this error.
    Error(&'static str),
    /// It begins this many microseconds later.
    Delay(u64),
}

/// The product under strace, with `fault` at the calls named `calls` that `when` selects (`3`, `3+`, `1+5`).
/// Whatever is traced is told in `log`.
#[must_use]
pub fn at(log: &Path, calls: &str, fault: &Fault, when: &str) -> Wrap {
    let (quick, fault) = match fault {
        Fault::Kill => (false, "signal=SIGKILL".to_owned()),
        Fault::Error(error) => (true, format!("error={error}")),
        Fault::Delay(micros) => (true, format!("delay_enter={micros}")),
    };
    let mut words = vec!["strace".to_owned(), "-D".into(), "-f".into(), "-qq".into()];
    if quick {
        words.push("--seccomp-bpf".into());
    }
    words.extend(["-o".into(), log.to_string_lossy().into_owned(), "-e".into(), format!("trace={calls}")]);
    words.extend(["-e".into(), format!("inject={calls}:{fault}:when={when}"), "--".into()]);
    Wrap::under(words)
}

/// What strace has told so far.
#[must_use]
pub fn told(log: &PathBuf) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}
