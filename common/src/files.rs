//! How many files and connections this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to `wanted` if it is lower and that is allowed; returns what it is then. The usual 1,024
/// are no limit on purpose.
pub fn allow(wanted: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let highest = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted.min(highest));
        // Refused: then the present limit stays, and is what is returned.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
