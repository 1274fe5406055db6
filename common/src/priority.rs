//! The priority of the threads that say "I am alive": on a machine with more work than processors they must run first, or
//! busy servers are taken for dead ones.

use rustix::io::Result;
use rustix::process::setpriority_process;

/// Enough to run before everything of the ordinary priority, and still behind what an administrator raised further.
const NICE: i32 = -10;

/// Raises the priority of the calling thread (Linux counts niceness by thread), if this process may: with `CAP_SYS_NICE` or a
/// `LimitNICE=` of -10. Without, the thread goes on as it was.
///
/// # Errors
/// What the system says, as a rule that it is not permitted.
pub fn raise() -> Result<()> {
    setpriority_process(None, NICE)
}
