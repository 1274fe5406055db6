//! A bounded, seeded run of a target: the kept inputs, the seeds, and so many mutations of both.

use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::Target;
use super::mutate::mutate;

/// Names the input under way should it end the process: printed while the test panics, with the input.
struct Witness<'a> {
    target: &'a Target,
    number: u32,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("annulus-fuzz-{}-{}", self.target.name, self.number));
            let kept = std::fs::write(&path, self.input).is_ok();
            let place = if kept { path.display().to_string() } else { "not kept".to_owned() };
            log_failure(self.target.name, self.number, &place, self.input);
        }
    }
}

#[allow(clippy::print_stderr)] // for whoever reads the failed test
fn log_failure(target: &str, number: u32, place: &str, input: &[u8]) {
    eprintln!("target {target}, input {number} ({place}): b\"{}\"", input.escape_ascii());
}

/// Where inputs are kept.
#[must_use]
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name)
}

/// The kept inputs of a target, in the order of their names.
///
/// # Panics
/// One cannot be read.
#[must_use]
pub fn kept(name: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(corpus(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable corpus").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a readable corpus")).collect()
}

/// Writes a target's seeds into a folder, for an engine that takes its first inputs from files.
///
/// # Errors
/// What the system says.
pub fn put_seeds(target: &Target, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut seeds = (target.seeds)().into_iter().enumerate();
    seeds.try_for_each(|(number, seed)| std::fs::write(folder.join(format!("seed-{number}")), seed))
}

/// Runs a target; returns how many inputs it took.
///
/// # Panics
/// A property is broken: the input is printed and written to a file of the temporary folder.
pub fn run(target: &Target, seed: u64, tries: u32) -> u32 {
    let mut inputs = kept(target.name);
    inputs.extend((target.seeds)());
    let mut number = 0;
    let mut one = |input: &[u8]| {
        let _witness = Witness { target, number, input };
        (target.run)(input);
        number += 1;
    };
    inputs.iter().for_each(|input| one(input));
    let mut random = Rng::with_seed(seed);
    for _ in 0..tries {
        one(&mutate(&inputs, &mut random));
    }
    number
}
