//! libFuzzer's way into the targets of `harness::fuzz`. One program for all: `ANNULUS_FUZZ_TARGET` names the target.
//!
//! Nothing is checked in here; see `harness/src/fuzz/mod.rs`.
#![no_main]

use std::sync::LazyLock;

use harness::fuzz::{TARGETS, Target, find};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("ANNULUS_FUZZ_TARGET").unwrap_or_default();
    find(&name).unwrap_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        panic!("ANNULUS_FUZZ_TARGET={name:?} is no target: known are {}", known.join(", "))
    })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
