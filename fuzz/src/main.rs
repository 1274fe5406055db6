//! libFuzzer's way into the targets of `harness::fuzz`. One program for all: `ANNULUS_FUZZ_TARGET` names the target, and
//! `ANNULUS_FUZZ_SEEDS` a folder that gets its seeds before libFuzzer looks into it.
//!
//! Nothing is checked in here; see `harness/src/fuzz/mod.rs`.
#![no_main]

use std::sync::LazyLock;

use harness::fuzz::{TARGETS, Target, find, smoke};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("ANNULUS_FUZZ_TARGET").unwrap_or_default();
    find(&name).unwrap_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        panic!("ANNULUS_FUZZ_TARGET={name:?} is no target: known are {}", known.join(", "))
    })
});

fn put_seeds() {
    if let Ok(folder) = std::env::var("ANNULUS_FUZZ_SEEDS") {
        smoke::put_seeds(&TARGET, folder.as_ref()).expect("the seeds can be written");
    }
}

libfuzzer_sys::fuzz_target!(init: put_seeds(), |data: &[u8]| (TARGET.run)(data));
