//! `just balance`: how evenly keys fall on 3 to 20 servers; see `harness::balance`.
#![allow(clippy::print_stdout)] // telling is what it is for

use clap::Parser;

/// Prints largest over mean keys per coordinator, with and without virtual nodes, and after failures.
#[derive(Parser, Debug)]
#[command(name = "balance")]
struct Args {
    /// Slots of the ring, a power of two.
    #[arg(long, default_value_t = 256, value_parser = slots)]
    slots: u16,
    /// Random keys.
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// Draws the keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let args = Args::parse();
    print!("{}", harness::balance::print(args.slots, args.keys, args.seed));
}

fn slots(text: &str) -> Result<u16, String> {
    let slots: u16 = text.parse().map_err(|error| format!("{error}"))?;
    if slots.is_power_of_two() && slots <= 32_768 {
        Ok(slots)
    } else {
        Err("a ring has a power of two of slots, up to 32,768".into())
    }
}
