//! Whether what is started together is answered as it is one by one.

use super::*;

/// Pipelines of each protocol.
const PIPELINES: u64 = 12;
/// Requests of each.
const REQUESTS: usize = 120;

fn bulk(args: &[&str]) -> String {
    let args: String = args.iter().map(|arg| format!("${}\r\n{arg}\r\n", arg.len())).collect();
    format!("*{}\r\n{args}", args.matches('$').count())
}

fn text_request(random: &mut fastrand::Rng) -> String {
    let key = random.u32(0..6);
    match random.u32(0..40) {
        0..24 => format!("get k{key}\n"),
        24..26 => format!("getb 2\nk{key}"),
        26..28 => format!("get later{key}\n"),
        28..33 => format!("put k{key} {}\n", "v".repeat(random.usize(1..300))),
        33 => format!("get down{key}\n"),
        34 => format!("get far{key}\n"),
        35 => "keyrange\n".to_owned(),
        36 => "what is this\n".to_owned(),
        37 => "get\n\n\r\n".to_owned(),
        38 => format!("get {}\n", "x".repeat(random.usize(50..70))),
        _ => format!("put k{key} {}\n", "x".repeat(140_000)),
    }
}

fn redis_request(random: &mut fastrand::Rng) -> String {
    let key = format!("k{}", random.u32(0..6));
    match random.u32(0..40) {
        0..15 => bulk(&["GET", &key]),
        15..17 => format!("get {key}\r\n"),
        17..19 => bulk(&["get", &format!("later{key}")]),
        19..28 => bulk(&["SET", &key, &"v".repeat(random.usize(0..300))]),
        28 => bulk(&["set", &"x".repeat(random.usize(40..70)), "v"]),
        29 => {
            let trouble = ["far", "locked", "down", "lost"][random.usize(0..4)];
            bulk(&["SET", &format!("{trouble}{key}"), "v"])
        }
        30 => bulk(&["SET", &key, "v", "NX"]),
        31 => bulk(&["STRLEN", &key]),
        32 => bulk(&["MGET", "k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"]),
        33 => bulk(&["GET", &format!("far{key}")]),
        34 => bulk(&["GET"]),
        35 => bulk(&["GET", &key, &key]),
        36 => "*0\r\n".to_owned(),
        37 => bulk(&["GET", &"x".repeat(random.usize(50..70))]),
        38 => bulk(&["GET", &"x".repeat(1100)]),
        _ => bulk(&["SET", &key, &"x".repeat(1_100_000)]),
    }
}

async fn answers(pipeline: &str, bounds: Bounds) -> String {
    let server = server(Settings { bounds, ..settings() }).await;
    let release = async {
        loop {
            server.stub.release(|_| ());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        answers = server.session(pipeline.as_bytes()) => answers,
        () = release => String::new(),
    }
}

async fn the_same_whatever_the_bounds(first: &str, request: fn(&mut fastrand::Rng) -> String) {
    for seed in 0..PIPELINES {
        let mut random = fastrand::Rng::with_seed(seed);
        let pipeline: String =
            std::iter::once(first.to_owned()).chain((0..REQUESTS).map(|_| request(&mut random))).collect();
        // With these no request is looked at before all earlier ones are answered and sent.
        let one_by_one = answers(&pipeline, Bounds { pending: 1, bytes: 1 }).await;
        assert!(one_by_one.len() > REQUESTS, "{one_by_one}");
        for (pending, bytes) in [(256, 1 << 20), (1, 1 << 20), (3, 2000), (2, 500)] {
            assert_eq!(
                answers(&pipeline, Bounds { pending, bytes }).await,
                one_by_one,
                "seed {seed}, {pending} {bytes}"
            );
        }
    }
}

#[tokio::test]
async fn text_reads_started_together_are_answered_as_one_by_one() {
    the_same_whatever_the_bounds("put k1 first\n", text_request).await;
}

#[tokio::test]
async fn redis_commands_started_together_are_answered_as_one_by_one() {
    the_same_whatever_the_bounds("*3\r\n$3\r\nSET\r\n$2\r\nk1\r\n$5\r\nfirst\r\n", redis_request).await;
}
