//! Every parser under seeded hostile bytes; see `harness::fuzz`. Bounded by inputs, not by time.

use harness::fuzz::{TARGETS, find, smoke};

/// Another stream of inputs: `ANNULUS_FUZZ_SEED=7 cargo test -p harness --test fuzz`.
fn seed() -> u64 {
    std::env::var("ANNULUS_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn holds(name: &str) {
    let target = find(name).unwrap_or_else(|| panic!("no target is called {name}"));
    let inputs = smoke::run(target, seed(), target.tries);
    assert!(inputs > target.tries, "only {inputs} inputs: the seeds are missing");
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets!(
    requests,
    replies,
    answers,
    pages,
    commands,
    frames,
    control,
    ecs_core,
    ecs_store,
    journal_lines,
    directory,
    checkpoint,
    identity,
    keyrange,
    transfer,
    config,
);

#[test]
fn every_target_has_its_test_and_every_kept_input_its_target() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED);
    let Ok(folders) = std::fs::read_dir(smoke::corpus("")) else { return };
    for folder in folders {
        let name = folder.expect("a readable corpus").file_name().to_string_lossy().into_owned();
        assert!(find(&name).is_some(), "fuzz/corpus/{name} is no target's");
    }
}
