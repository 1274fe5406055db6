//! The shell on a pipe: commands from stdin, one a line.
#![allow(clippy::disallowed_methods)] // Reads stdin in a thread of its own, so that Ctrl-C is heard while it waits.

use std::io::{self, BufRead, Read};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::{Next, Shell};
use crate::address::Address;
use crate::cli::interrupted;
use crate::cli::out::Problem;
use crate::client::Client;
use crate::exit;

/// The longest command: a value of the largest size fits.
const LONGEST: u64 = 2 * 1024 * 1024;
/// Commands read ahead; then reading waits.
const AHEAD: usize = 16;

/// Works stdin off; the exit code is the first failure's.
pub(super) fn run(shell: &mut Shell, runtime: &Runtime, seeds: Vec<Address>) -> Result<u8, Problem> {
    let (sender, mut lines) = mpsc::channel(AHEAD);
    std::thread::spawn(move || read(&sender));
    runtime.block_on(async {
        if !seeds.is_empty() {
            // Not connected yet: if nobody is there, each command says so.
            shell.client = Some(Client::new(seeds, shell.settings.clone()));
        }
        let mut number = 0u64;
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                _ = tokio::signal::ctrl_c() => return Err(interrupted()),
            };
            let Some(line) = line else { break };
            number += 1;
            let result = match line {
                Ok(line) => shell.obey(&line).await,
                Err(problem) => Err(problem),
            };
            match result {
                Ok(Next::More) => {}
                Ok(Next::End) => break,
                Err(problem) if problem == Problem::closed_pipe() => break,
                Err(problem) if problem.code == exit::INTERRUPTED => return Err(problem),
                Err(problem) => {
                    shell.out.fail(&format!("line {number}: "), &problem);
                    shell.failed.get_or_insert(problem.code);
                }
            }
        }
        Ok(shell.failed.unwrap_or(exit::OK))
    })
}

fn read(sender: &mpsc::Sender<Result<Vec<u8>, Problem>>) {
    let mut stdin = io::stdin().lock();
    loop {
        let line = match read_line(&mut stdin) {
            Ok(None) => return,
            Ok(Some(line)) => line,
            Err(error) => {
                drop(sender.blocking_send(Err(Problem::file(format!("cannot read stdin: {error}")))));
                return;
            }
        };
        if sender.blocking_send(line).is_err() {
            return;
        }
    }
}

/// One line; one that is too long is an error and skipped to its end. None at the end.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>, Problem>>> {
    let mut line = Vec::new();
    if input.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(Problem::usage(format!("line over the limit of {LONGEST} bytes, skipped; use `import`")))));
    }
    Ok(Some(Ok(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_line_is_skipped_and_the_next_one_read() {
        let long = vec![b'x'; usize::try_from(LONGEST).unwrap() + 5];
        let mut input = io::Cursor::new([&long[..], b"\nget k\nlast"].concat());
        assert!(read_line(&mut input).unwrap().unwrap().is_err());
        assert_eq!(read_line(&mut input).unwrap().unwrap().unwrap(), b"get k\n");
        assert_eq!(read_line(&mut input).unwrap().unwrap().unwrap(), b"last");
        assert!(read_line(&mut input).unwrap().is_none());
    }
}
