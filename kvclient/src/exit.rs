//! The exit codes of `kvclient`, for scripts.

/// All is well.
pub const OK: u8 = 0;
/// A server answered with an error, or a file could not be read or written.
pub const SERVER: u8 = 1;
/// The command line, or a line of the shell, is not understood.
pub const USAGE: u8 = 2;
/// The key has no value.
pub const NOT_FOUND: u8 = 3;
/// No server could be reached.
pub const UNREACHABLE: u8 = 4;
/// Nobody served the request in time, or its outcome is unknown.
pub const UNAVAILABLE: u8 = 5;
/// Someone else changed it first.
pub const CONFLICT: u8 = 6;
/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;
