//! Records moved to a new server with nothing else going on; `just moving` tells more, and of moves under load.

use std::path::Path;
use std::time::Duration;

use super::Bench;
use crate::bench::moving::{Options, run};
use crate::bench::report::{Bound, Figure};

const WANTED: f64 = 150_000.0;

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let options = Options {
        program: bench.options.program.clone(),
        folder: folder.to_owned(),
        keys: bench.options.moved,
        servers: 1,
        clients: 0,
        before: Duration::ZERO,
        server_args: Vec::new(),
    };
    let moved = run(&options, bench.tell)?;
    let name = format!("moving {} keys to a new server", moved.records);
    bench.report.figures.push(Figure::new(&name, "/s", vec![moved.rate()]).median(Bound::AtLeast(WANTED)));
    Ok(())
}
