//! A server's control connection: registration, heartbeats, reports, views in, wishes about the membership out and back.
//!
//! What the product's registrar does around its socket; the desk that keeps who waits for which answer is the product's.

use common::control::{FromEcs, FromServer, Heartbeat, Report, Wish};
use common::{Epoch, Meta};
use kvserver::node::desk::{lost, told, unconnected};
use kvserver::replica::{Event as Happening, Replica, Reply, Token};

use super::queue::Event;
use super::server::Gone;
use super::wire::{Party, Wire};
use super::world::World;

/// How long a server that stops in order waits for its slots to be taken over.
const STEP_DOWN: u64 = 800_000;

impl World {
    pub(super) fn heartbeat(&mut self, s: usize) {
        let (now, server) = (self.now, &self.servers[s]);
        let Some(process) = server.process.as_ref() else { return };
        let highest = process.replicas.iter().filter_map(|replica| replica.view().map(|view| view.epoch)).max();
        let heartbeat = Heartbeat {
            node: server.node,
            store: server.store,
            boot: server.boot,
            meta: process.topology.version,
            highest_epoch: highest.unwrap_or(Epoch(0)),
            disk_stalled: process.writes.sync.is_some_and(|sync| now - sync.since > 2_000_000),
        };
        let inc = server.inc;
        if server.cluster.is_some() {
            self.send(Party::Server(s), Party::Ecs, Wire::Heartbeat(heartbeat));
        }
        self.report(s);
        self.queue.at(now + 100_000, Event::Heartbeat { server: s, inc });
    }

    /// Tells the ECS how the slots stand, on change and once a second.
    fn report(&mut self, s: usize) {
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let report = Report {
            slots: process.replicas.iter().filter_map(Replica::report).collect(),
            strays: process.replicas.iter().filter_map(|r| r.stray().map(|epoch| (r.slot(), epoch))).collect(),
            held: process.replicas.iter().filter_map(|r| r.outdated().map(|last| (r.slot(), last))).collect(),
        };
        if process.welcomed && (report != process.last_report || self.now > process.reported + 1_000_000) {
            process.last_report = report.clone();
            process.reported = self.now;
            self.to_ecs(s, FromServer::Report(report));
        }
    }

    pub(super) fn to_ecs(&mut self, s: usize, msg: FromServer) {
        let Some(conn) = self.servers[s].process.as_ref().and_then(|process| process.conn) else { return };
        self.send(Party::Server(s), Party::Ecs, Wire::ToEcs { conn, msg });
    }

    /// Makes a control connection if there is none, or if `conn` is the present one and is broken or unanswered.
    pub(super) fn control(&mut self, s: usize, conn: u64) {
        let broken = self.conn_broken(conn);
        let info = self.servers[s].info();
        let server = &mut self.servers[s];
        let (inc, cluster, rejoin) = (server.inc, server.cluster, server.rejoin);
        let Some(process) = server.process.as_mut() else { return };
        if process.conn.is_some_and(|present| present != conn || (process.welcomed && !broken)) {
            return;
        }
        if std::mem::take(&mut process.refused) {
            let at = self.now + self.rng.u64(100_000..500_000);
            return self.queue.at(at, Event::Control { server: s, inc, conn });
        }
        let waiting: Vec<Token> = process.desk.lose().collect();
        if let Some(old) = process.conn.take() {
            self.break_conn(old, Some(1_000));
        }
        waiting.into_iter().for_each(|token| self.reply(s, token, Reply::Page(told(&lost()))));
        let conn = self.new_conn(s);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let seen = process.replicas.iter().filter_map(|replica| replica.view().map(|view| view.epoch)).max();
        let seen = seen.unwrap_or_default();
        (process.conn, process.welcomed) = (Some(conn), false);
        let msg = FromServer::Register { info, cluster, rejoin, seen };
        self.send(Party::Server(s), Party::Ecs, Wire::ToEcs { conn, msg });
        let again = self.now + self.rng.u64(300_000..900_000);
        self.queue.at(again, Event::Control { server: s, inc, conn });
    }

    pub(super) fn from_ecs(&mut self, s: usize, conn: u64, msg: FromEcs) {
        let foreign = self.servers[s].foreign;
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if process.conn != Some(conn) {
            return;
        }
        self.trace.line(self.now, || format!("s{s} <- ecs {}", super::world::brief(&msg)));
        match msg {
            FromEcs::Welcome { .. } if foreign => {
                self.fail(format!("s{s} is let in with a directory of another cluster"));
            }
            FromEcs::Welcome { cluster, meta } => {
                process.welcomed = true;
                self.servers[s].dubious = false;
                self.servers[s].cluster = Some(cluster.cluster);
                if let Err(why) = self.servers[s].files.bind(cluster.cluster, cluster.slots) {
                    return self.fail(format!("s{s}: {why}"));
                }
                self.adopt(s, meta);
            }
            FromEcs::Update(meta) => self.adopt(s, meta),
            FromEcs::HandOver { slots } => {
                for (slot, epoch, to) in slots {
                    self.handle(s, slot, Happening::HandOver { epoch, to });
                }
            }
            FromEcs::Drop { slots } => {
                for (slot, epoch) in slots {
                    self.stats.bump("drop orders");
                    self.handle(s, slot, Happening::Drop { epoch });
                }
            }
            FromEcs::Refused { reason, fatal } => {
                process.refused = true;
                self.stats.bump("registrations refused");
                if fatal {
                    self.turned_away(s, &reason);
                } else if self.healed && self.servers[s].dubious && self.has_twin(s) {
                    // It would wait for as long as the other one holds an only copy: its owner does what it says.
                    self.stats.bump("copied directories given up");
                    self.go_away(s, Gone::Copied);
                }
            }
            FromEcs::Left { reason } => self.left(s, &reason),
            FromEcs::Relieved => self.relieved(s),
            FromEcs::Notice { .. } => {}
            FromEcs::Granted { id, granted } => {
                let asker = process.desk.answered(id);
                if let Some(token) = asker {
                    self.reply(s, token, Reply::Page(told(&granted)));
                }
            }
            FromEcs::Fenced { reason } => self.fenced(s, &reason),
        }
    }

    /// Takes metadata over and tells the replicas.
    fn adopt(&mut self, s: usize, meta: Meta) {
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let fresh = process.topology.merge(meta);
        if let Err(why) = crate::invariants::keyranges(&process.topology) {
            return self.fail(format!("s{s}: {why}"));
        }
        for view in fresh {
            self.handle(s, view.slot, Happening::View(view));
        }
    }

    // ---- wishes ----

    /// A client wishes something about the membership: it goes to the ECS, or is refused at once.
    pub(super) fn wish(&mut self, s: usize, wish: Wish, token: Token) {
        self.wait_for(s, token);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if !process.welcomed || process.conn.is_none() {
            return self.reply(s, token, Reply::Page(told(&unconnected())));
        }
        if let Err((token, granted)) = process.desk.push(wish, token) {
            return self.reply(s, token, Reply::Page(told(&granted)));
        }
        for (id, wish) in process.desk.take() {
            self.to_ecs(s, FromServer::Wish { id, wish });
        }
    }

    /// The ECS says that this server is no longer part of the cluster: its process ends.
    fn left(&mut self, s: usize, reason: &str) {
        let (node, store) = (self.servers[s].node, self.servers[s].store);
        if self.ecs.durable().departed(node).is_none() {
            return self.fail(format!("s{s} is told that it has left, and the ECS does not remember that: {reason}"));
        }
        if let Some(view) = self.ecs.views().iter().find(|view| view.isr.get(&node) == Some(&store)) {
            return self.fail(format!("s{s} is told that it has left, and slot {} still counts on it", view.slot));
        }
        self.stats.bump("servers that left");
        self.go_away(s, Gone::Left);
    }

    /// The ECS refuses this server for good. That is right if it was sent away, and for nobody else.
    fn turned_away(&mut self, s: usize, reason: &str) {
        if std::mem::take(&mut self.servers[s].foreign) {
            // Its owner starts it again with a directory of its own.
            self.stats.bump("foreign directories turned away");
            self.stop_server(s, false);
            self.fresh_directory(s);
            return self.start_later(s, 100_000..600_000);
        }
        let sent_away = self.ecs.durable().departed(self.servers[s].node).is_some();
        if !sent_away && !self.servers[s].dubious && !self.has_twin(s) {
            return self.fail(format!("s{s} is refused for good: {reason}"));
        }
        self.stats.bump(if sent_away { "servers turned away" } else { "old directories turned away" });
        self.go_away(s, if sent_away && !self.servers[s].dubious { Gone::Removed } else { Gone::Copied });
    }

    /// Another process runs with this identity.
    fn fenced(&mut self, s: usize, reason: &str) {
        if !self.has_twin(s) {
            return self.fail(format!("s{s} is fenced though it is its node's only process: {reason}"));
        }
        self.stats.bump("servers fenced");
        self.go_away(s, Gone::Copied);
    }

    fn go_away(&mut self, s: usize, how: Gone) {
        self.trace.line(self.now, || format!("s{s} is gone: {how:?}"));
        self.stop_server(s, false);
        self.servers[s].gone = Some(how);
        self.comes_back(s);
    }

    // ---- orderly stops ----

    /// SIGTERM: its slots are given to others before it goes.
    pub(super) fn step_down(&mut self, s: usize) {
        self.to_ecs(s, FromServer::Stopping);
        if let Some(process) = self.servers[s].process.as_mut() {
            process.stopping = true;
        }
        let at = self.now + STEP_DOWN;
        self.queue.at(at, Event::Stop { server: s, inc: self.servers[s].inc });
    }

    /// Nobody can take anything more of what it coordinates.
    fn relieved(&mut self, s: usize) {
        if self.servers[s].process.as_ref().is_some_and(|process| process.stopping) {
            self.stats.bump("orderly stops relieved");
            self.queue.at(self.now + 1_000, Event::Stop { server: s, inc: self.servers[s].inc });
        }
    }

    /// It says goodbye and ends.
    pub(super) fn stop_in_order(&mut self, s: usize) {
        self.to_ecs(s, FromServer::Goodbye);
        let spell = self.spell();
        self.stop_server(s, false);
        self.start_later(s, spell);
    }
}
