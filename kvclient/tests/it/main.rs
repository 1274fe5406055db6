//! The client's tests: one program, because linking one takes longer than running them.

mod command_line;
mod fake;
mod library;
mod transfer;
