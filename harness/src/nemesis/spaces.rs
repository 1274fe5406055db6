//! A network namespace for each process, joined by a bridge: links that lose packets, as real ones do. Needs root.
//!
//! Everything hangs on namespaces with this process's id in their names: removing them removes the rest.

use std::path::Path;

use super::mounts::run;

/// The namespaces of one cluster.
#[derive(Debug)]
pub struct Spaces {
    name: String,
    subnet: [u8; 2],
    members: Vec<usize>,
}

impl Spaces {
    /// The bridge, the ecs's namespace, and a way in for clients.
    ///
    /// # Errors
    /// Not allowed, or `ip` is missing.
    pub fn new(network: [u8; 2]) -> anyhow::Result<Spaces> {
        let name = format!("annulus-{}-{}-{}", std::process::id(), network[0], network[1]);
        // 198.18.0.0/15 is set aside for tests of networks. The host's end of the bridge is .254.
        let mut spaces = Spaces { name, subnet: [18 + network[0] % 2, network[1]], members: Vec::new() };
        let hub = spaces.hub();
        run(&["ip", "netns", "add", &hub])?;
        run(&["ip", "-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        run(&["ip", "-n", &hub, "link", "set", "bridge", "up"])?;
        let host = spaces.host();
        run(&["ip", "link", "add", &host, "type", "veth", "peer", "name", "host", "netns", &hub])?;
        run(&["ip", "-n", &hub, "link", "set", "host", "master", "bridge", "up"])?;
        run(&["ip", "address", "add", &format!("{}/24", spaces.ip(254)), "dev", &host])?;
        run(&["ip", "link", "set", &host, "up"])?;
        spaces.add(0)?;
        Ok(spaces)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// Interface names have at most 15 characters.
    fn host(&self) -> String {
        format!("anl{:x}", u32::from(self.subnet[0]) << 8 | u32::from(self.subnet[1]))
    }

    fn space(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn host_of(number: usize) -> usize {
        if number == 0 { super::ECS_HOST } else { number }
    }

    /// The address with this last part.
    #[must_use]
    pub fn ip(&self, host: usize) -> String {
        format!("198.{}.{}.{host}", self.subnet[0], self.subnet[1])
    }

    /// One more namespace.
    ///
    /// # Errors
    /// Not allowed.
    pub fn add(&mut self, number: usize) -> anyhow::Result<()> {
        let (space, hub, port) = (self.space(number), self.hub(), format!("port{number}"));
        run(&["ip", "netns", "add", &space])?;
        self.members.push(number);
        run(&["ip", "-n", &space, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &hub])?;
        run(&["ip", "-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
        let address = format!("{}/24", self.ip(Spaces::host_of(number)));
        run(&["ip", "-n", &space, "address", "add", &address, "dev", "eth0"])?;
        run(&["ip", "-n", &space, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &space, "link", "set", "lo", "up"])?;
        Ok(())
    }

    /// What starts a process inside. Not `ip netns exec`: that gives it a copy of all mounts too, and a file system that
    /// is mounted anywhere cannot be unmounted by the scenario that owns it.
    #[must_use]
    pub fn prefix(&self, number: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.space(number))]
    }

    /// Runs a program inside.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, number: usize, words: &str) -> anyhow::Result<String> {
        let mut all = self.prefix(number);
        all.extend(words.split(' ').map(str::to_owned));
        run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Drops every packet from `from` to `to`, 0 being the ecs, or lets them through again.
    ///
    /// # Errors
    /// `iptables` is missing.
    pub fn drop_packets(&self, from: usize, to: usize, yes: bool) -> anyhow::Result<()> {
        let (what, source) = (if yes { "-A" } else { "-D" }, self.ip(Spaces::host_of(from)));
        self.run(to, &format!("iptables -w {what} INPUT -s {source} -j DROP")).map(drop)
    }

    /// How many packets such rules have dropped at `to`.
    ///
    /// # Errors
    /// `iptables` is missing.
    pub fn dropped(&self, to: usize) -> anyhow::Result<u64> {
        let listing = self.run(to, "iptables -w -nvxL INPUT")?;
        let rows = listing.lines().filter(|line| line.contains("DROP"));
        Ok(rows.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for number in &self.members {
            let _ = run(&["ip", "netns", "delete", &self.space(*number)]);
        }
        // Deleted by name too: a namespace lives as long as anything in it does.
        let _ = run(&["ip", "link", "delete", &self.host()]);
        let _ = run(&["ip", "netns", "delete", &self.hub()]);
    }
}

/// Removes namespaces of runs that were killed.
pub(super) fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix("annulus-").and_then(|rest| rest.split('-').next());
        if id.is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = run(&["ip", "netns", "delete", &name]);
        }
    }
}
