//! What tokio itself costs: a server that sends back whatever it reads, and looks at none of it.
//!
//! The upper limit of the GET lines. A process of its own, like every server, on the same kind of runtime as a kvserver's.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use kvserver::config::default_threads;
use playground::process::{Launch, Process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use super::PATIENCE;

/// The hidden sub-command of this role.
const ROLE: &str = "__echo";

/// Runs the echo, if the arguments (the program's name first) ask for it. It ends when its stdin does.
#[must_use]
pub fn dispatch(args: &[OsString]) -> Option<ExitCode> {
    (args.get(1)? == ROLE).then(|| match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Starts this program as an echo.
pub(crate) fn start(program: &str, folder: &Path) -> anyhow::Result<Process> {
    let launch = Launch {
        name: "echo".to_owned(),
        program: program.into(),
        args: vec![ROLE.into()],
        log: folder.join("echo.log"),
        announces: "echo listening on ",
    };
    Process::start(launch, PATIENCE)
}

#[allow(clippy::print_stdout)] // the line that the parent waits for
fn serve() -> anyhow::Result<()> {
    // Nobody writes to this pipe: anything but waiting means that the parent has gone.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let runtime = Builder::new_multi_thread().worker_threads(default_threads()).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("echo listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(send_back(stream));
        }
    })
}

/// Until the caller has gone; why it went does not matter.
async fn send_back(mut stream: TcpStream) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        if stream.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
