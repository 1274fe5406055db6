//! Three etcd nodes with their defaults: every put is in the log of a majority, synced, before it is answered.

use std::path::Path;
use std::time::Instant;

use anyhow::bail;

use super::{Guard, LOOK, PATIENCE, Peer, exchange, free_port};

impl Peer {
    /// Starts them; the address is the leader's.
    pub(crate) fn etcd(folder: &Path) -> anyhow::Result<Peer> {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<anyhow::Result<_>>()?;
        let everyone: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("n{n}=http://127.0.0.1:{peer}")).collect();
        let mut guards = Vec::new();
        for (number, (client, peer)) in ports.iter().enumerate() {
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let data = folder.join(format!("etcd{number}"));
            let args = [
                ("--name", format!("n{number}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", everyone.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                ("--log-level", "error".to_owned()),
            ];
            let mut args: Vec<String> = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
            // Both of its interfaces, so that the faster one can be taken.
            args.push("--enable-v2=true".to_owned());
            guards.push(Guard::start("etcd", &args, &folder.join(format!("etcd{number}.log")))?);
        }
        let address = leader(&ports)?;
        Ok(Peer { name: "etcd x3", address, _guards: guards })
    }
}

fn leader(ports: &[(u16, u16)]) -> anyhow::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (client, _) in ports {
            let address = format!("127.0.0.1:{client}");
            let question = "GET /v2/stats/self HTTP/1.0\r\nHost: etcd\r\n\r\n";
            if exchange(&address, question).unwrap_or_default().contains("StateLeader") {
                return Ok(address);
            }
        }
        if Instant::now() >= deadline {
            bail!("etcd has no leader after {PATIENCE:?}");
        }
        std::thread::sleep(LOOK);
    }
}
