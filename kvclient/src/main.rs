//! `kvclient`: see the library of the same name.

fn main() -> std::process::ExitCode {
    kvclient::cli(std::env::args_os())
}
