//! What the client and the command line read.

use std::ffi::OsString;

use common::position::Position;
use kvclient::Address;
use kvclient::cli::args::Format;
use kvclient::ring::{self, Arc, Ring};
use kvclient::transfer::records::Syntax;
use kvserver::config::Config;

use super::choice;

/// Lookups are compared with trying every arc for rings up to this long.
const COMPARED: usize = 64;

pub(super) fn keyrange(data: &[u8]) {
    let Some((split, rest)) = choice(data) else { return };
    let Ok(arcs) = ring::parse(&String::from_utf8_lossy(rest)) else { return };
    let again: String = arcs.iter().map(|arc| format!("{},{},{};", arc.from, arc.to, arc.address.as_str())).collect();
    assert_eq!(ring::parse(&again), Ok(arcs.clone()), "written again");
    let (coordinators, readers) = arcs.split_at(usize::from(split).min(arcs.len()));
    let ring = Ring::new(coordinators, readers);
    if arcs.len() > COMPARED {
        return;
    }
    for arc in &arcs {
        for position in [arc.from, arc.to, Position(arc.to.0.wrapping_add(1)), Position(arc.from.0.wrapping_sub(1))] {
            let first = coordinators.iter().find(|arc| arc.contains(position)).map(|arc| &arc.address);
            assert_eq!(ring.coordinator(position), first);
            assert_eq!(ring.readers(position), all(readers, position));
        }
    }
}

fn all(readers: &[Arc], position: Position) -> Vec<Address> {
    let mut all: Vec<Address> =
        readers.iter().filter(|arc| arc.contains(position)).map(|arc| arc.address.clone()).collect();
    all.sort();
    all.dedup();
    all.truncate(ring::READERS);
    all
}

pub(super) fn keyrange_seeds() -> Vec<Vec<u8>> {
    let half = "7fffffffffffffffffffffffffffffff";
    let rest = "80000000000000000000000000000000";
    let (none, all) = ("0".repeat(32), "f".repeat(32));
    vec![
        b"\x02".to_vec(),
        format!("\x01{none},{half},127.0.0.1:1;{rest},{all},127.0.0.1:2;").into_bytes(),
        format!("\x03{rest},{half},[::1]:1;{none},{all},h:2;{rest},{rest},h:3;").into_bytes(),
        (0..64_u32).fold(b"\x20".to_vec(), |mut text, at| {
            text.extend(format!("{at:x},{:x},h:{};", at * 3, at % 5).bytes());
            text
        }),
    ]
}

pub(super) fn transfer(data: &[u8]) {
    let Some((bits, line)) = choice(data) else { return };
    let format = if bits & 1 == 0 { Format::Json } else { Format::Tsv };
    let Ok(Some(record)) = (Syntax { format, raw: bits & 2 != 0 }).read(line) else { return };
    assert!(!record.key.0.is_empty());
    for format in [Format::Json, Format::Tsv] {
        let syntax = Syntax { format, raw: false };
        let mut out = Vec::new();
        syntax.write(&mut out, &record).expect("what was read can be written");
        assert_eq!(out.pop(), Some(b'\n'));
        assert!(!out.contains(&b'\n'), "a record is one line");
        assert_eq!(syntax.read(&out), Ok(Some(record.clone())));
    }
}

pub(super) fn transfer_seeds() -> Vec<Vec<u8>> {
    let lines: &[&[u8]] = &[
        br#"{"key":"k","value":"v"}"#,
        br#"{"key":{"b64":"/w=="},"value":{"b64":"AAEC"}}"#,
        b"k\tv\tw\r",
        br"a\tb	c\n\x00\\",
        b"k\t\xff\xfe",
    ];
    (0..4).flat_map(|bits| lines.iter().map(move |line| [&[bits], *line].concat())).collect()
}

/// The server's flags, one a line. Those that name hosts are left out: looking them up asks the network.
pub(super) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let hosts = |arg: &str| {
        arg.contains("addr")
            || arg.contains("advertise")
            || (arg.starts_with('-') && !arg.starts_with("--") && arg.contains('a'))
    };
    let args: Vec<&str> = text.split('\n').take(16).filter(|arg| !hosts(arg) && !arg.contains('\0')).collect();
    if let Ok(kvserver::config::Wanted::Serve(config)) =
        Config::read(std::iter::once("kvserver").chain(args).map(OsString::from))
    {
        assert!(config.limits.text_key <= config.limits.key && config.limits.text_value <= config.limits.value);
        assert!(config.limits.line >= config.limits.text_key + config.limits.text_value);
        assert!(config.max_connections > 0 && config.bounds.pending > 0 && config.bounds.bytes > 0);
        assert!(config.greeting.is_none_or(|line| !line.contains(['\r', '\n'])));
    }
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    [
        "-p\n50000\n-b\nlocalhost:3000\n-d\n./data1\n-l\n./log.txt\n-ll\nALL\n-c\n100\n-s\nFIFO\n-v\n-v",
        "--dialect\ntum\n--greeting\nhello",
        "--text-max-key\n20\n--text-max-value\n100\n--max-key-bytes=30\n--max-value-bytes=1000",
        "--max-connections\n10\n--max-pending\n10\n--max-pending-bytes\n1000\n--reads\nconfirm\n--salvage",
        "--peer-port\n0\n--admin-port\n0\n--checkpoint-seconds\n5\n--print-config",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
