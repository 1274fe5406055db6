//! Values from 10 bytes to a mebibyte, three servers, three copies, spoken to as Redis: no limit of lines is in the way.

use std::path::Path;

use super::{Options, Table};
use crate::bench::dialect::Protocol;
use crate::bench::load::Load;
use crate::bench::setup::{coordinators, fill, keys, value};
use crate::real::{Cluster, Options as ClusterOptions};

const SIZES: [usize; 6] = [10, 100, 1 << 10, 10 << 10, 100 << 10, 1 << 20];
const CLIENTS: usize = 16;
/// All values of one size together: memory of three servers, and the journals of three.
const BYTES: usize = 64 << 20;
const KEYS: usize = 2_000;
const RESP: Protocol = Protocol::Redis { wait: false };

pub(super) fn measure(options: &Options, folder: &Path, tell: &dyn Fn(&str)) -> anyhow::Result<Table> {
    let mut table = Table::new(
        &format!("Values: three servers, three copies, {CLIENTS} clients, one request at a time each."),
        &[
            ("value", "bytes"),
            ("put x3", "/s"),
            ("put data", " MB/s"),
            ("put p99", " us"),
            ("get", "/s"),
            ("get data", " MB/s"),
            ("get p99", " us"),
        ],
    );
    for size in SIZES {
        tell(&format!("values of {size} bytes"));
        let cluster = Cluster::start_in(&options.program, folder.join(size.to_string()), 3, ClusterOptions::default());
        let targets = coordinators(&cluster, &keys((BYTES / size).clamp(64, KEYS)))?;
        let value = value(size);
        fill(RESP, &targets, &value)?;
        let load =
            Load { protocol: RESP, targets, clients: CLIENTS, pipeline: 1, put: Some(value), length: options.length };
        let puts = load.run()?;
        let gets = Load { put: None, ..load }.run()?;
        let megabytes = |rate: f64| rate * size as f64 / 1e6;
        table.rows.push(vec![
            size as f64,
            puts.rate(),
            megabytes(puts.rate()),
            puts.percentiles().p99,
            gets.rate(),
            megabytes(gets.rate()),
            gets.percentiles().p99,
        ]);
    }
    Ok(table)
}
