# `just` lists these. Each recipe is one or two plain commands, to be typed by hand where `just` is not installed.

_default:
    @just --list

# All that CI runs, except the simulation. Never writes to the sources.
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo check -p harness --features switches --all-targets
    cargo check --locked --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    cargo test --workspace

# Formats, and applies what clippy can mend by itself.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

# A cluster of three servers and a shell.
play *args:
    cargo run --release --bin playground -- {{args}}

# Simulated clusters under faults; a failing seed is printed and can be replayed with `just sim-seed`.
sim seeds="2000":
    cargo run --release -p harness --bin simulate -- --seeds {{seeds}}

# One seed again, with its history.
sim-seed seed *args:
    cargo run --release -p harness --bin simulate -- --seed {{seed}} --trace {{args}}

# Each rule of docs/replication.md off in turn: every one must be missed.
mutants *args="--seeds 1000":
    cargo run --release -p harness --features switches --bin simulate --target-dir target/switches -- --mutants {{args}}

# Coverage-guided fuzzing of one target of harness/src/fuzz (needs a C++ compiler); `just fuzz requests 600`.
fuzz target seconds="60" *flags:
    fuzz/run {{target}} {{seconds}} {{flags}}

# Five servers and a file (30,000 made-up records without one): kills, returns, everything read back after each step.
survive *file:
    cargo run --release -p harness --bin survive -- {{file}}

# How evenly keys fall on 3 to 20 servers, with and without virtual nodes, and after failures.
balance *args:
    cargo run --release -p harness --bin balance -- {{args}}

# What the table of faults promises, on real processes, two scenarios at a time: all, or those named. `--list` shows them.
nemesis *args="--all --jobs 2":
    cargo run --release -p harness --bin nemesis -- {{args}}

# A million records to a new server: how fast alone, and what clients feel of it.
moving *args:
    cargo run --release -p harness --bin moving -- {{args}}

# Annulus and its peers in turn, with ratios: docs/performance.md. Peers that are not installed are named and skipped.
bench *args:
    cargo run --profile dist -p harness --bin bench -- {{args}}

# What keys, values, connections and servers cost as they grow.
growth *args:
    cargo run --profile dist -p harness --bin bench -- growth {{args}}

# Licences and advisories of the dependencies (needs cargo-deny).
deny:
    cargo deny check
