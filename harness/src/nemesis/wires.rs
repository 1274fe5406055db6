//! Proxies between the processes: each direction of each pair can be held (a half-open link: the connection stands and
//! nothing comes through), delayed, or cut (connections closed and refused).
//!
//! A server is told to advertise the address of its proxy, so everyone who dials it comes through here. Who dials is
//! found out by the owner of the dialling socket (`/proc`), because on loopback all addresses look alike; towards the ecs
//! every server has a proxy of its own. What is held is delivered when the link opens again, like a very late packet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// A server.
    Server(usize),
    /// The configuration service.
    Ecs,
    /// Any client.
    Client,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// They arrive.
    Open,
    /// They arrive this much later.
    Late(Duration),
    /// They wait here until the link is opened.
    Held,
    /// The connection is closed, and new ones are refused.
    Cut,
}

type Rules = BTreeMap<(Who, Who), Flow>;

/// The proxies of one cluster.
#[derive(Debug)]
pub struct Wires {
    rules: watch::Sender<Rules>,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Shared {
    owners: Mutex<BTreeMap<u32, Who>>,
    stopped: AtomicU64,
}

impl Wires {
    /// None yet.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new() -> anyhow::Result<Wires> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Wires { rules: watch::Sender::new(Rules::new()), shared: Arc::default(), runtime: Some(runtime) })
    }

    /// Listens for those who look for `target`, who really is at `real`. Whoever comes is `dialer`, or found out.
    ///
    /// # Errors
    /// The address is taken.
    pub fn listen(&self, at: &str, real: &str, dialer: Option<Who>, target: Who) -> anyhow::Result<()> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let listener = runtime.block_on(TcpListener::bind(at))?;
        let (real, shared, rules) = (real.to_owned(), self.shared.clone(), self.rules.subscribe());
        runtime.spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let dialer = dialer.unwrap_or_else(|| shared.owner(from.port()));
                let link = Link { shared: shared.clone(), rules: rules.clone(), dialer, target };
                let real = real.clone();
                tokio::spawn(async move { link.carry(stream, &real).await });
            }
        });
        Ok(())
    }

    /// Process `id` is this one.
    pub fn know(&self, id: u32, who: Who) {
        self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id, who);
    }

    /// From now on, bytes from `from` to `to` do this.
    pub fn set(&self, from: Who, to: Who, flow: Flow) {
        self.rules.send_modify(|rules| {
            rules.insert((from, to), flow);
        });
    }

    /// The same for both directions.
    pub fn set_both(&self, one: Who, other: Who, flow: Flow) {
        self.set(one, other, flow);
        self.set(other, one, flow);
    }

    /// Everything is well again.
    pub fn open_all(&self) {
        self.rules.send_modify(Rules::clear);
    }

    /// How many times bytes were held or a connection was cut or refused, so far.
    #[must_use]
    pub fn stopped(&self) -> u64 {
        self.shared.stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Whose process has the socket with this local port. Whoever is not known is a client.
    fn owner(&self, port: u16) -> Who {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(inode) = inode(port) else { return Who::Client };
        let socket = format!("socket:[{inode}]");
        let has = |id: &u32| {
            let files = std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
            files.into_iter().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*socket))
        };
        owners.iter().find(|(id, _)| has(id)).map_or(Who::Client, |(_, who)| *who)
    }

    fn count(&self) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

/// The socket that dialled from this port of loopback, in `/proc/net/tcp`.
fn inode(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(1) == Some(&&*local)).find_map(|row| row.get(9)?.parse().ok().filter(|inode| *inode != 0))
}

/// One connection.
#[derive(Clone)]
struct Link {
    shared: Arc<Shared>,
    rules: watch::Receiver<Rules>,
    dialer: Who,
    target: Who,
}

impl Link {
    fn flow(&mut self, from: Who, to: Who) -> Flow {
        self.rules.borrow_and_update().get(&(from, to)).copied().unwrap_or(Flow::Open)
    }

    fn is_cut(&mut self) -> bool {
        let (dialer, target) = (self.dialer, self.target);
        self.flow(dialer, target) == Flow::Cut || self.flow(target, dialer) == Flow::Cut
    }

    async fn carry(mut self, near: TcpStream, real: &str) {
        if self.is_cut() {
            return self.shared.count();
        }
        let Ok(far) = TcpStream::connect(real).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let (dialer, target, mut watch) = (self.dialer, self.target, self.clone());
        let there = self.clone().pump(near_in, far_out, dialer, target);
        let back = self.clone().pump(far_in, near_out, target, dialer);
        tokio::select! {
            ((), ()) = async { tokio::join!(there, back) } => {}
            () = async { while !watch.is_cut() { if watch.rules.changed().await.is_err() { return } } } => self.shared.count(),
        }
    }

    /// Carries bytes of one direction until its end.
    async fn pump(
        mut self,
        mut input: tokio::net::tcp::OwnedReadHalf,
        mut output: tokio::net::tcp::OwnedWriteHalf,
        from: Who,
        to: Who,
    ) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(read @ 1..) = input.read(&mut buffer).await else { break };
            let mut counted = false;
            let flow = loop {
                match self.flow(from, to) {
                    Flow::Held => {
                        if !std::mem::replace(&mut counted, true) {
                            self.shared.count();
                        }
                        if self.rules.changed().await.is_err() {
                            return;
                        }
                    }
                    flow => break flow,
                }
            };
            if let Flow::Late(delay) = flow {
                tokio::time::sleep(delay).await;
            }
            if output.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        let _ = output.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_direction_delivers_later_and_a_cut_one_closes() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let wires = Wires::new().unwrap();
        wires.listen(&unused, &server.local_addr().unwrap().to_string(), Some(Who::Client), Who::Server(1)).unwrap();
        let mut client = TcpStream::connect(&unused).unwrap();
        let (mut inside, _) = server.accept().unwrap();
        let mut byte = [0];
        wires.set(Who::Client, Who::Server(1), Flow::Held);
        client.write_all(b"a").unwrap();
        inside.write_all(b"b").unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b", "the other direction is open");
        inside.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(inside.read_exact(&mut byte).is_err(), "held");
        wires.open_all();
        inside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        inside.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a", "what was held arrives");
        wires.set_both(Who::Client, Who::Server(1), Flow::Cut);
        assert_eq!(client.read(&mut byte).unwrap_or(0), 0, "closed");
        assert!(wires.stopped() >= 2);
    }

    #[test]
    fn the_dialler_is_known_by_its_process() {
        let shared = Shared::default();
        shared.owners.lock().unwrap().insert(std::process::id(), Who::Server(7));
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(shared.owner(client.local_addr().unwrap().port()), Who::Server(7));
        assert_eq!(Shared::default().owner(client.local_addr().unwrap().port()), Who::Client);
    }
}
