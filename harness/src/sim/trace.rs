//! The readable account of one run: who said what to whom, when.
#![allow(clippy::print_stdout)] // the account is what `simulate --trace` is asked to print

use common::Slot;

/// Prints lines, or nothing at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    on: bool,
    slot: Option<Slot>,
}

impl Trace {
    pub(super) fn new(on: bool, slot: Option<Slot>) -> Trace {
        Trace { on, slot }
    }

    /// Prints one line; `text` is only made if it is wanted.
    pub(super) fn line(self, now: u64, text: impl FnOnce() -> String) {
        if self.on {
            println!("{:>4}.{:06} {}", now / 1_000_000, now % 1_000_000, short(&text()));
        }
    }

    /// The same of something that concerns one slot.
    pub(super) fn slot(self, now: u64, slot: Slot, text: impl FnOnce() -> String) {
        if self.slot.is_none_or(|only| only == slot) {
            self.line(now, text);
        }
    }
}

/// Identities are 16 or 32 digits of which a simulation uses the last few.
fn short(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut zeros = 0;
    for c in text.chars() {
        if c == '0' {
            zeros += 1;
            continue;
        }
        out.extend(std::iter::repeat_n('0', if zeros >= 8 { 0 } else { zeros }));
        zeros = 0;
        out.push(c);
    }
    out.extend(std::iter::repeat_n('0', zeros));
    out
}
