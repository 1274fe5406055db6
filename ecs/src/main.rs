//! The `ecs` program.

fn main() -> std::process::ExitCode {
    ecs::cli(std::env::args_os())
}
