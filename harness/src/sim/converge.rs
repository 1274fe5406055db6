//! The end of a run: nothing goes wrong any more, and everything must become right in bounded time.
//!
//! Right means: every slot is active with all its targets in sync, at its home if that is alive; all copies are equal, and
//! equal to what the committed entries say; every key can be read from every copy and written.

use std::collections::BTreeSet;

use common::{NodeState, Slot, View};
use kvserver::node::topology::Topology;
use kvserver::replica::Replica;

use super::wire::Want;
use super::world::World;

/// How long the cluster may take to be whole again, in simulated microseconds. What takes longest: a change of membership
/// that stands still is undone after a minute (a server is sent away, and those who could take its share have lost their
/// disks and wait for their own joins), and another may wait behind it.
const PATIENCE: u64 = 150_000_000;
/// How long the last operations may take: a write waits for 40 L before it is given up.
const LAST_WORDS: u64 = 60_000_000;
/// How often a last operation is asked, until it is answered.
const TRIES: u32 = 3;
/// How often the state is looked at.
const LOOK: u64 = 50_000;

/// Waits for the cluster to converge and takes a last look at every key.
pub(super) fn run(world: &mut World) {
    let healed = world.now;
    if !wait(world, PATIENCE, whole) {
        return;
    }
    world.stats.peak("longest recovery, ms", (world.now - healed) / 1_000);
    for client in &mut world.clients {
        client.resting = true;
    }
    if !wait(world, LAST_WORDS, |w| {
        if w.clients.iter().all(super::client::Client::idle) { Ok(()) } else { Err("clients still wait".to_string()) }
    }) {
        return;
    }
    if wait(world, LAST_WORDS, |w| whole(w).and_then(|()| equal(w))) {
        last_look(world);
    }
}

/// Lets time pass until `done` holds; otherwise the run is stuck.
fn wait(world: &mut World, patience: u64, done: impl Fn(&World) -> Result<(), String>) -> bool {
    let until = world.now + patience;
    loop {
        let next = world.now + LOOK;
        world.run_while(|w| w.now < next);
        if world.failed() {
            return false;
        }
        match done(world) {
            Ok(()) => return true,
            Err(why) if world.now > until => {
                world.fail(format!("stuck: {} s after everything was mended, {why}", patience / 1_000_000));
                return false;
            }
            Err(_) => {}
        }
    }
}

/// Whether every slot is where and how it should be.
pub(super) fn whole(world: &World) -> Result<(), String> {
    let cluster = world.ecs.cluster().ok_or("the ECS does not run")?;
    if let Some(change) = cluster.change() {
        return Err(format!("a membership change is still in progress: {change:?}"));
    }
    for (s, server) in world.servers.iter().enumerate().filter(|(_, server)| server.used) {
        if server.gone.is_some() {
            match cluster.nodes().contains_key(&server.node) && !world.has_twin(s) {
                true => return Err(format!("s{s} has gone, and the ECS still counts on it")),
                false => continue,
            }
        }
        let info = cluster.nodes().get(&server.node).ok_or(format!("s{s} is unknown to the ECS"))?;
        if info.state != NodeState::Up {
            return Err(format!("s{s} is {:?}", info.state));
        }
    }
    let homes = cluster.homes();
    for view in cluster.views() {
        placed(world, view, homes.get(usize::from(view.slot.0)).copied())?;
    }
    if cluster.views().is_empty() { Err("the cluster was never founded".to_string()) } else { Ok(()) }
}

fn placed(world: &World, view: &View, home: Option<common::NodeId>) -> Result<(), String> {
    let slot = view.slot;
    let alive = |node: &common::NodeId| world.servers.iter().any(|server| server.node == *node && server.takes_part());
    let missing: Vec<_> = view.targets.iter().filter(|target| !view.isr.contains_key(target)).collect();
    if !missing.is_empty() {
        return Err(format!("slot {slot}: {missing:?} are not in sync ({view:?})"));
    }
    let wanted = world.servers.iter().filter(|server| server.takes_part()).count().min(3);
    if view.isr.len() != wanted || view.targets.len() != wanted {
        return Err(format!("slot {slot}: {wanted} copies are wanted ({view:?})"));
    }
    if home.is_some_and(|home| alive(&home) && home != view.coordinator) {
        return Err(format!("slot {slot}: its home {home:?} lives and {} coordinates it", view.coordinator));
    }
    // Who has just lost its control connection tells clients of a ring that is no more, until it is connected again.
    let knows =
        |topology: &Topology| topology.views.get(usize::from(slot.0)).and_then(|view| Some(view.as_ref()?.epoch));
    for (s, process) in world.servers.iter().enumerate().filter_map(|(s, server)| Some((s, server.process.as_ref()?))) {
        let known = knows(&process.topology);
        if world.servers[s].takes_part() && known != Some(view.epoch) {
            return Err(format!("slot {slot}: s{s} tells clients of epoch {known:?}, not {}", view.epoch));
        }
    }
    let copies = world.copies(slot);
    for copy in &copies {
        if copy.replica.view().map(|v| v.epoch) != Some(view.epoch) {
            return Err(format!("slot {slot}: s{} is not at epoch {}", copy.server, view.epoch));
        }
        if copy.replica.stray().is_some() {
            return Err(format!("slot {slot}: s{} still holds a copy that nobody needs", copy.server));
        }
    }
    let leader = copies.iter().find(|copy| copy.me.node == view.coordinator);
    match leader.map(|copy| (copy.replica.role_name(), copy.replica.may_read(world.local(copy.server)))) {
        Some(("coordinator", true)) => Ok(()),
        state => Err(format!("slot {slot}: its coordinator is {state:?}")),
    }
}

/// Whether all copies are the same, and what the committed entries say.
fn equal(world: &World) -> Result<(), String> {
    for slot in (0..world.record.slots).map(Slot) {
        let committed = world.checks.committed(slot);
        let (map, retries) = world.checks.expected(slot);
        for copy in world.copies(slot).iter().filter(|copy| holds(copy.replica)) {
            let image = copy.replica.image();
            if image.base.map(|base| base.seq) != Some(committed) || !image.tail.is_empty() {
                return Err(format!("slot {slot}: s{} is at {:?}, not at {committed}", copy.server, image.base));
            }
            if image.map != map {
                let (has, should) = (image.records().collect::<Vec<_>>(), map.iter().collect::<Vec<_>>());
                return Err(format!("slot {slot}: s{} holds {has:?}, committed is {should:?}", copy.server));
            }
            if image.retries != retries {
                let (has, should) = (&image.retries, &retries);
                return Err(format!("slot {slot}: s{} remembers {has:?}, committed is {should:?}", copy.server));
            }
        }
    }
    Ok(())
}

fn holds(replica: &Replica) -> bool {
    matches!(replica.role_name(), "coordinator" | "replica")
}

/// Every key is read at every copy, written, and read again. All of it must be answered.
fn last_look(world: &mut World) {
    let mut operations = Vec::new();
    for round in 0..2 {
        for key in 0..world.plan.keys {
            let slot = world.slot_of(key);
            let holders: BTreeSet<usize> =
                world.copies(slot).iter().filter(|copy| holds(copy.replica)).map(|copy| copy.server).collect();
            for server in holders {
                if !one(world, key, Want::Get, Some(server), &mut operations) {
                    return;
                }
            }
            if round == 0 && !one(world, key, Want::Put, None, &mut operations) {
                return;
            }
        }
    }
    if let Some(op) = operations.into_iter().find(|op| !world.answered(*op)) {
        world.fail(format!("operation {op} was not answered though everything was mended and whole"));
    }
}

/// A client whose knowledge is older than the cluster may ask who is no more, and the ECS may yet learn of a server's end: what
/// is not answered is asked again, as people would.
fn one(world: &mut World, key: u32, what: Want, server: Option<usize>, operations: &mut Vec<u32>) -> bool {
    let mut last = 0;
    for _ in 0..TRIES {
        last = u32::try_from(world.history.ops().len()).unwrap_or(0);
        world.operate(0, key, what, server);
        let done = wait(world, LAST_WORDS, |w| {
            if w.clients[0].idle() { Ok(()) } else { Err("the last operations are not answered".to_string()) }
        });
        if !done {
            return false;
        }
        if world.answered(last) {
            break;
        }
    }
    operations.push(last);
    true
}
