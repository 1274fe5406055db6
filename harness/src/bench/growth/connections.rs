//! One to ten thousand connections at one server, each of which asks one thing after another.

use std::path::Path;

use super::{Options, Table, up_to};
use crate::bench::dialect::Protocol;
use crate::bench::load::{Load, Target};
use crate::bench::setup::{Alone, fill, keys, value};
use crate::bench::usage::resident;

const STEPS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const KEYS: usize = 10_000;

pub(super) fn measure(options: &Options, folder: &Path, tell: &dyn Fn(&str)) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "Connections: one server, values of 100 bytes, one get after another on each. The load generator is one thread.",
        &[
            ("connections", "count"),
            ("get", "/s"),
            ("p50", " us"),
            ("p99", " us"),
            ("p99.9", " us"),
            ("memory of the server", " MiB"),
        ],
    );
    let server = Alone::start(&options.program, folder, &[])?;
    let targets = vec![Target::new(server.address(), &keys(KEYS))];
    fill(Protocol::Text, &targets, &value(100))?;
    for wanted in up_to(options.connections, &STEPS) {
        // Fewer, said aloud, where so many files are not allowed; the server raises its own limit.
        let clients = crate::real::crowd::affordable(wanted);
        tell(&format!("{clients} connections"));
        let load = Load {
            protocol: Protocol::Text,
            targets: targets.clone(),
            clients,
            pipeline: 1,
            put: None,
            length: options.length,
        };
        let gets = load.run()?;
        let (latency, memory) = (gets.percentiles(), resident(server.process.id())? as f64 / f64::from(1 << 20));
        table.rows.push(vec![clients as f64, gets.rate(), latency.p50, latency.p99, latency.p999, memory]);
    }
    Ok(table)
}
