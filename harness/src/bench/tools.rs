//! Foreign load generators: run to their end or to the end of our patience, and their words understood.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const LOOK: Duration = Duration::from_millis(1);

/// Ends the tool when our end of its stdin closes (in a process group of its own, so that Ctrl-C does not end the shell first); else passes its exit code on. A background job of a shell has no stdin
/// of its own, so the pipe is kept under another number.
const GUARD: &str = r#"exec 3<&0; "$@" </dev/null 3<&- & tool=$!
(cat <&3 >/dev/null; kill -9 $tool) & watch=$!
wait $tool; code=$?; kill $watch 2>/dev/null; exit $code"#;

/// Runs a program and gives what it wrote. Its exit code has to be one of `codes`.
pub(crate) fn run(
    program: &str,
    args: &[String],
    folder: &Path,
    codes: &[i32],
    patience: Duration,
) -> anyhow::Result<String> {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let log = folder.join(format!("{name}.out"));
    let out = std::fs::File::create(&log)?;
    let mut child = Command::new("/bin/sh")
        .args(["-c", GUARD, "guard", program])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            drop(child.stdin.take());
            child.wait()?;
            break None;
        }
        std::thread::sleep(LOOK);
    };
    let text = std::fs::read_to_string(&log)?;
    match status {
        None => bail!("{name} has not ended after {patience:?}: {text:.500}"),
        Some(status) if status.code().is_some_and(|code| codes.contains(&code)) => Ok(text),
        Some(status) => bail!("{name} {}: {status}: {text:.500}", args.join(" ")),
    }
}

/// One line of redis-benchmark's `--csv`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row {
    /// `GET`, `SET`.
    pub(crate) test: String,
    /// Requests a second.
    pub(crate) rate: f64,
    /// In microseconds: half, 99 of 100, all.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) worst: f64,
}

/// The lines of redis-benchmark's `--csv`; anything else that it says, errors of the server above all, is an error.
pub(crate) fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let head = fields(lines.next().context("redis-benchmark said nothing")?);
    let column = |name: &str| {
        let found = head.iter().position(|field| field == name);
        found.with_context(|| format!("redis-benchmark told no {name}: {head:?}"))
    };
    let (test, rate) = (column("test")?, column("rps")?);
    let (p50, p99, worst) = (column("p50_latency_ms")?, column("p99_latency_ms")?, column("max_latency_ms")?);
    lines
        .map(|line| {
            let fields = fields(line);
            anyhow::ensure!(fields.len() == head.len(), "not a line of redis-benchmark's table: {line}");
            let number = |at: usize| fields[at].parse::<f64>().with_context(|| line.to_owned());
            let rate = number(rate)?;
            anyhow::ensure!(rate.is_finite() && rate > 0.0, "no throughput: {line}");
            let micros = |at| Ok::<_, anyhow::Error>(number(at)? * 1e3);
            Ok(Row { test: fields[test].clone(), rate, p50: micros(p50)?, p99: micros(p99)?, worst: micros(worst)? })
        })
        .collect()
}

/// Quoted fields with commas between; there are no quotes inside.
fn fields(line: &str) -> Vec<String> {
    line.trim().split(',').map(|field| field.trim_matches('"').to_owned()).collect()
}

/// Writes a second as `etcdctl check perf` tells them, whether it is content or not.
pub(crate) fn check_perf(text: &str) -> Option<f64> {
    let line = text.split(['\n', '\r']).find(|line| line.contains("hroughput"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("writes/s"))?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
        \"SET\",\"298507.47\",\"2.236\",\"0.496\",\"1.639\",\"5.615\",\"6.887\",\"7.295\"\n\
        \"GET\",\"370370.38\",\"1.636\",\"0.280\",\"1.327\",\"3.855\",\"5.495\",\"5.671\"\n";

    #[test]
    fn the_table_of_redis_benchmark_is_read() {
        let rows = rows(CSV).unwrap();
        let get = Row { test: "GET".to_owned(), rate: 370_370.38, p50: 1_327.0, p99: 5_495.0, worst: 5_671.0 };
        assert_eq!((rows.len(), &rows[1]), (2, &get));
    }

    #[test]
    fn words_of_the_server_among_the_numbers_are_errors() {
        assert!(rows("").is_err());
        assert!(rows("Could not connect to Redis at 127.0.0.1:1: Connection refused\n").is_err());
        assert!(rows(&format!("{CSV}Error from server: ERR no\n")).is_err());
        assert!(rows(&CSV.replace("298507.47", "0.00")).is_err());
    }

    #[test]
    fn etcd_tells_its_throughput_in_either_mood() {
        assert_eq!(check_perf(" 60 / 60 Booooo 100.00%\nPASS: Throughput is 150 writes/s\n"), Some(150.0));
        assert_eq!(check_perf("FAIL: Throughput too low: 2735 writes/s\nPASS: Stddev is 0.1s"), Some(2_735.0));
        assert_eq!(check_perf("Error: context deadline exceeded"), None);
    }

    #[test]
    fn a_tool_is_run_to_its_end_or_to_ours() {
        let folder = tempfile::tempdir().unwrap();
        let shell = |script: &str| vec!["-c".to_owned(), script.to_owned()];
        let long = Duration::from_secs(20);
        assert_eq!(run("/bin/sh", &shell("echo hi"), folder.path(), &[0], long).unwrap(), "hi\n");
        assert!(run("/bin/sh", &shell("exit 3"), folder.path(), &[0], long).is_err());
        assert_eq!(run("/bin/sh", &shell("exit 3"), folder.path(), &[0, 3], long).unwrap(), "");
        let late = run("/bin/sh", &shell("while :; do :; done"), folder.path(), &[0], Duration::from_millis(100));
        assert!(late.unwrap_err().to_string().contains("has not ended"));
    }
}
