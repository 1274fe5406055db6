//! The configuration service's tests: one program, because linking one takes longer than running them.

mod balance;
mod faults;
mod process;
mod puppets;
mod scripts;
