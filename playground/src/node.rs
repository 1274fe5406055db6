//! The hidden sub-commands: this binary as an `ecs` or a `kvserver`.
//!
//! One binary starts itself again in other roles, so that a cluster needs no other file to be built or found. A child in
//! such a role watches its stdin if told to, and stops when it closes: its parent is gone, in whatever way.
//!
//! This is a shell: it has a thread of its own.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::process::{Signal, WATCH_STDIN};

/// This binary as the configuration service.
pub const ECS: &str = "__ecs";
/// This binary as a server.
pub const KVSERVER: &str = "__kvserver";
/// This binary as a client.
pub const KVCLIENT: &str = "__kvclient";

/// How long an orphan may take to stop in order.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a hidden sub-command, if the arguments (the program's name first) name one.
#[must_use]
pub fn dispatch(args: &[OsString]) -> Option<ExitCode> {
    let role = args.get(1)?.to_str()?;
    let program = match role {
        ECS => "ecs",
        KVSERVER => "kvserver",
        KVCLIENT => "kvclient",
        _ => return None,
    };
    if std::env::var_os(WATCH_STDIN).is_some() {
        std::thread::spawn(stop_with_stdin);
    }
    let args = std::iter::once(OsString::from(program)).chain(args[2..].iter().cloned()).collect::<Vec<_>>();
    Some(match role {
        ECS => ecs::cli(args),
        KVSERVER => kvserver::cli(args),
        _ => kvclient::cli(args),
    })
}

/// Returns only if the process refuses to end.
fn stop_with_stdin() {
    let mut sink = [0; 64];
    // Nobody writes to this pipe; anything but waiting means that it is closed.
    while matches!(std::io::stdin().read(&mut sink), Ok(n) if n > 0) {}
    // The ordinary way to stop, so that there is only one.
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
    std::thread::sleep(ORPHAN_PATIENCE);
    std::process::exit(1);
}
