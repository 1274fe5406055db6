//! The `kvserver` program.

fn main() -> std::process::ExitCode {
    kvserver::cli(std::env::args_os())
}
