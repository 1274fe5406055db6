//! The Rust crate `redis` against a running cluster: `commands PORT...` or `writer PORT`.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{Commands as _, Connection, ProtocolVersion, RedisResult};

fn connect(port: &str, protocol: ProtocolVersion) -> RedisResult<Connection> {
    let suffix = if protocol == ProtocolVersion::RESP3 { "?protocol=resp3" } else { "" };
    redis::Client::open(format!("redis://127.0.0.1:{port}/{suffix}"))?.get_connection()
}

fn commands(port: &str, protocol: ProtocolVersion) -> RedisResult<()> {
    let mut r = connect(port, protocol)?;
    let p = format!("rs{port}{protocol:?}:");
    let key = |name: &str| format!("{p}{name}");
    let () = r.set(key("a"), 41)?;
    assert_eq!(r.incr::<_, _, i64>(key("a"), 1)?, 42);
    assert_eq!(r.get::<_, Option<String>>(key("none"))?, None);
    assert!(!r.set_nx::<_, _, bool>(key("a"), 1)?);
    assert_eq!(r.append::<_, _, usize>(key("a"), "0")?, 3);
    assert_eq!(r.getset::<_, _, String>(key("a"), "x")?, "420");
    assert!(r.expire::<_, bool>(key("a"), 100)?);
    assert!((90..=100).contains(&r.ttl::<_, i64>(key("a"))?));
    assert!(r.persist::<_, bool>(key("a"))?);
    let bytes: Vec<u8> = (0..=255).collect();
    let () = r.set(key("bin"), &bytes)?;
    assert_eq!(r.get::<_, Vec<u8>>(key("bin"))?, bytes);
    let () = r.mset(&[(key("x"), 1), (key("y"), 2)])?;
    assert_eq!(r.mget::<_, Vec<Option<i64>>>(&[key("x"), key("y"), key("z")])?, [Some(1), Some(2), None]);
    let mut pipe = redis::pipe();
    for n in 0..200 {
        pipe.set(key(&n.to_string()), n).ignore().get(key(&n.to_string()));
    }
    assert_eq!(pipe.query::<Vec<i64>>(&mut r)?, (0..200).collect::<Vec<_>>());
    let found: HashSet<String> = r.scan_match::<_, String>(format!("{p}*"))?.collect::<RedisResult<_>>()?;
    assert_eq!(found.len(), 204);
    assert_eq!(r.del::<_, usize>(found.iter().collect::<Vec<_>>())?, 204);
    assert_eq!(redis::cmd("WAIT").arg(2).arg(100).query::<i64>(&mut r)?, 2);
    let error = redis::cmd("FOO").arg("a").query::<()>(&mut r).expect_err("there is no such command");
    assert!(error.to_string().contains("unknown command 'FOO', with args beginning with: 'a'"), "{error}");
    Ok(())
}

/// Adds one to counters until its input ends; each must then be what was acknowledged.
fn writer(port: &str) -> RedisResult<()> {
    let mut r = connect(port, ProtocolVersion::RESP2)?;
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Relaxed);
    });
    println!("ready");
    let (mut counts, mut rounds, mut longest) = ([0_i64; 64], 0, Duration::ZERO);
    while !done.load(Relaxed) {
        let slot = rounds % counts.len();
        let begun = Instant::now();
        counts[slot] += 1;
        assert_eq!(r.incr::<_, _, i64>(format!("rs-counter{slot}"), 1)?, counts[slot], "counter {slot}");
        longest = longest.max(begun.elapsed());
        rounds += 1;
    }
    for (slot, count) in counts.iter().enumerate() {
        assert_eq!(r.get::<_, Option<i64>>(format!("rs-counter{slot}"))?.unwrap_or(0), *count);
    }
    println!("{rounds} writes, longest {} ms", longest.as_millis());
    Ok(())
}

fn main() -> RedisResult<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ports = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("commands") => {
            for port in ports {
                commands(port, ProtocolVersion::RESP2)?;
                commands(port, ProtocolVersion::RESP3)?;
            }
        }
        Some("writer") => writer(&ports[0])?,
        _ => panic!("commands PORT..., or writer PORT"),
    }
    println!("ok");
    Ok(())
}
