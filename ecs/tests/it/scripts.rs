//! Scripted scenarios of the core, one a file, named by the scenario. `UPDATE_GOLDENFILES=1` writes what is now.
//!
//! Commands: `start N..`, `kill N..`, `freeze N`, `thaw N`, `cut N`, `mend N`, `wipe N as M`, `restore N` (new store),
//! `copy N as M`, `unplug N..` (power lost), `hangup N`, `mute N` (no control connection), `deafen N M..` (N hears no M),
//! `ecs stop|start`, `run MILLISECONDS`, `settle` (until nothing is left to do), `show`, `accuse N TIMES`,
//! `set N WORD`, `leave N [force]`, `remove N M [force | accept-data-loss]`, `cancel N`, `progress N`,
//! `plan N [WITHOUT]`, `rebalance N` (an operator asks through N),
//! `stopping N`, `rejoin N`. Every command prints what the ECS logged meanwhile.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use crate::puppets::Theatre;
use common::control::Wish;
use common::{Epoch, NodeId};
use ecs::Event;
use goldenscript::{Command, Context, Runner};

struct Stage(Theatre);

impl Runner for Stage {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let words: Vec<&str> = std::iter::from_fn(|| args.next_pos()).collect();
        let names: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
        let mut answer = self.perform(&command.name, &words, &names)?;
        self.0.check()?;
        let log: Vec<String> = self.0.log.drain(..).collect();
        if !log.is_empty() {
            answer = format!("{}\n{answer}", log.join("\n"));
        }
        Ok(answer.trim_end().to_string())
    }
}

/// A way in which a puppet behaves badly; without one it behaves again.
fn set(puppet: &mut crate::puppets::Puppet, how: Option<&str>) {
    match how {
        Some("stubborn") => puppet.stubborn = true,
        Some("lazy") => puppet.lazy = true,
        Some("stalled") => puppet.stalled = true,
        Some("dated") => puppet.dated = true,
        _ => {
            (puppet.stubborn, puppet.lazy) = (false, false);
            (puppet.stalled, puppet.dated) = (false, false);
        }
    }
}

impl Stage {
    /// An operator asks through server N: `leave N`, `remove N M`, `cancel N`; `force` makes it so. None: not that.
    fn wish(name: &str, words: &[&str], names: &[u64]) -> Option<(u64, Wish)> {
        let force = words.contains(&"force");
        Some(match (name, names) {
            ("leave", [name]) => (*name, Wish::Leave { force }),
            ("remove", [name, other]) if words.contains(&"accept-data-loss") => {
                (*name, Wish::GiveUp { node: NodeId(*other).to_string() })
            }
            ("remove", [name, other]) => (*name, Wish::Remove { node: NodeId(*other).to_string(), force }),
            ("cancel", [name]) => (*name, Wish::Cancel),
            ("plan", [name]) => (*name, Wish::Plan),
            ("plan", [name, without]) => (*name, Wish::PlanWithout { node: NodeId(*without).to_string() }),
            ("rebalance", [name]) => (*name, Wish::Rebalance),
            ("progress", [name]) => (*name, Wish::Progress),
            _ => return None,
        })
    }

    fn perform(&mut self, name: &str, words: &[&str], names: &[u64]) -> Result<String, Box<dyn Error>> {
        if let Some((through, wish)) = Self::wish(name, words, names) {
            self.0.wish(through, wish);
            return Ok(String::new());
        }
        let theatre = &mut self.0;
        match (name, names) {
            ("start", names) => names.iter().for_each(|name| theatre.start(*name)),
            ("kill", names) => names.iter().for_each(|name| theatre.kill(*name)),
            ("freeze", [name]) => self.puppet(*name)?.frozen = true,
            ("thaw", [name]) => self.puppet(*name)?.frozen = false,
            // Power is lost: no connection is closed, no probe refused.
            ("unplug", names) => {
                for name in names {
                    let puppet = self.puppet(*name)?;
                    (puppet.running, puppet.cut) = (false, true);
                }
            }
            ("cut", [name]) => self.puppet(*name)?.cut = true,
            ("mend", [name]) => {
                let puppet = self.puppet(*name)?;
                puppet.cut = false;
                puppet.deaf_to.clear();
            }
            ("deafen", [name, others @ ..]) => {
                let others: Vec<NodeId> = others.iter().map(|name| NodeId(*name)).collect();
                self.puppet(*name)?.deaf_to.extend(others);
            }
            // The control connection breaks; `mute` keeps the server from making another.
            ("hangup", [name]) => {
                let conn = self.puppet(*name)?.conn;
                self.0.hang_up(conn);
            }
            ("mute", [name]) => {
                let puppet = self.puppet(*name)?;
                puppet.mute = true;
                let conn = puppet.conn;
                self.0.hang_up(conn);
            }
            ("unmute", [name]) => self.puppet(*name)?.mute = false,
            ("wipe", [name, id]) => self.puppet(*name)?.wipe(*id),
            ("restore", [name]) => self.puppet(*name)?.store.0 += 1000,
            ("copy", [name, other]) => {
                let mut copy = self.puppet(*name)?.clone();
                copy.running = false;
                copy.addr = format!("h:{other}");
                copy.conn = None;
                self.0.puppets.insert(*other, copy);
            }
            ("foreign", [name]) => self.puppet(*name)?.cluster = Some(common::ClusterId(99)),
            ("set", [name]) => set(self.puppet(*name)?, words.get(1).copied()),
            ("goodbye", [name]) => {
                let conn = self.puppet(*name)?.conn.ok_or("not connected")?;
                self.0.tell(Event::Goodbye { conn });
                self.0.kill(*name);
            }
            ("accuse", [name, times]) => {
                let addr = self.puppet(*name)?.addr.clone();
                for _ in 0..*times {
                    self.0.tell(Event::Accuse { addr: addr.clone(), why: "timeout".into() });
                    self.0.step();
                }
            }
            ("stopping", [name]) => {
                let conn = self.puppet(*name)?.conn.ok_or("not connected")?;
                self.0.tell(Event::Stopping { conn });
            }
            ("rejoin", [name]) => self.puppet(*name)?.rejoin = true,
            ("ecs", _) if words == ["stop"] => theatre.stop_ecs(),
            ("ecs", _) if words == ["start"] => theatre.start_ecs(),
            ("forget-epochs", _) => {
                // An operator puts an old copy of the directory back.
                for puppet in theatre.puppets.values_mut() {
                    puppet.views.values_mut().for_each(|view| view.epoch = Epoch(view.epoch.0 + 1_000));
                }
            }
            ("run", [millis]) => theatre.run(Duration::from_millis(*millis)),
            ("settle", _) => {
                let before = theatre.now;
                let done = theatre.run_until(Duration::from_secs(60), Theatre::settled);
                let took = theatre.now.since(before);
                return if done { Ok(format!("settled after {took:?}")) } else { Err(theatre.show().into()) };
            }
            ("show", _) => return Ok(theatre.show()),
            _ => return Err(format!("unknown command {name} {words:?}").into()),
        }
        Ok(String::new())
    }

    fn puppet(&mut self, name: u64) -> Result<&mut crate::puppets::Puppet, Box<dyn Error>> {
        self.0.puppets.get_mut(&name).ok_or_else(|| format!("no puppet {name}").into())
    }
}

#[test]
fn scripts_play_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "the scripts are missing");
    for path in paths {
        goldenscript::run(&mut Stage(Theatre::new(16)), &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
