//! Random faults against the core: whatever happens, the durable state keeps its invariants, every view follows from the
//! one before (`puppets` checks each step), and once the faults end everything comes home.

mod puppets;

use std::time::Duration;

use common::control::Wish;
use common::{NodeId, StoreUuid};
use ecs::Event;
use proptest::prelude::*;
use puppets::Theatre;

#[derive(Clone, Debug)]
enum Fault {
    Start(u64),
    Kill(u64),
    Freeze(u64),
    Thaw(u64),
    Cut(u64),
    Mend(u64),
    Deafen(u64, u64),
    Restore(u64),
    Stall(u64, bool),
    Lazy(u64, bool),
    Goodbye(u64),
    Accuse(u64),
    HangUp(u64),
    Ecs(bool),
    Stopping(u64),
    Leave(u64, bool),
    Remove(u64, u64),
    Cancel(u64),
    Run(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    let name = || 1..6u64;
    prop_oneof![
        4 => name().prop_map(Fault::Start),
        2 => name().prop_map(Fault::Kill),
        1 => name().prop_map(Fault::Freeze),
        1 => name().prop_map(Fault::Thaw),
        1 => name().prop_map(Fault::Cut),
        1 => name().prop_map(Fault::Mend),
        1 => (name(), name()).prop_map(|(a, b)| Fault::Deafen(a, b)),
        1 => name().prop_map(Fault::Restore),
        1 => (name(), any::<bool>()).prop_map(|(a, b)| Fault::Stall(a, b)),
        1 => (name(), any::<bool>()).prop_map(|(a, b)| Fault::Lazy(a, b)),
        1 => name().prop_map(Fault::Goodbye),
        1 => name().prop_map(Fault::Accuse),
        1 => name().prop_map(Fault::HangUp),
        1 => any::<bool>().prop_map(Fault::Ecs),
        1 => name().prop_map(Fault::Stopping),
        2 => (name(), any::<bool>()).prop_map(|(a, b)| Fault::Leave(a, b)),
        2 => (name(), name()).prop_map(|(a, b)| Fault::Remove(a, b)),
        1 => name().prop_map(Fault::Cancel),
        1 => Just(Fault::Run(65_000)),
        6 => (1..300u64).prop_map(|tens| Fault::Run(tens * 10)),
    ]
}

fn play(theatre: &mut Theatre, fault: &Fault) {
    let of = |theatre: &mut Theatre, name: u64, act: fn(&mut puppets::Puppet)| {
        if let Some(puppet) = theatre.puppets.get_mut(&name) {
            act(puppet);
        }
    };
    match *fault {
        Fault::Start(name) if theatre.puppets.get(&name).is_none_or(|p| !p.running) => theatre.start(name),
        Fault::Kill(name) => theatre.kill(name),
        Fault::Freeze(name) => of(theatre, name, |p| p.frozen = true),
        Fault::Thaw(name) => of(theatre, name, |p| p.frozen = false),
        Fault::Cut(name) => of(theatre, name, |p| p.cut = true),
        Fault::Mend(name) => of(theatre, name, |p| p.cut = false),
        Fault::Deafen(name, other) => {
            if let Some(puppet) = theatre.puppets.get_mut(&name) {
                puppet.deaf_to.insert(NodeId(other));
            }
        }
        Fault::Restore(name) => of(theatre, name, |p| {
            if !p.running {
                p.store.0 += 1000;
            }
        }),
        Fault::Stall(name, true) => of(theatre, name, |p| p.stalled = true),
        Fault::Stall(name, false) => of(theatre, name, |p| p.stalled = false),
        Fault::Lazy(name, true) => of(theatre, name, |p| p.lazy = true),
        Fault::Lazy(name, false) => of(theatre, name, |p| p.lazy = false),
        Fault::Goodbye(name) => {
            if let Some(conn) = theatre.puppets.get(&name).and_then(|p| p.conn) {
                theatre.tell(Event::Goodbye { conn });
                theatre.kill(name);
            }
        }
        Fault::Accuse(name) => theatre.tell(Event::Accuse { addr: format!("h:{name}"), why: "timeout".into() }),
        Fault::HangUp(name) => {
            let conn = theatre.puppets.get(&name).and_then(|p| p.conn);
            theatre.hang_up(conn);
        }
        Fault::Ecs(true) if theatre.ecs.is_none() => theatre.start_ecs(),
        Fault::Ecs(false) => theatre.stop_ecs(),
        Fault::Stopping(name) => {
            if let Some(conn) = theatre.puppets.get(&name).and_then(|p| p.conn) {
                theatre.tell(Event::Stopping { conn });
            }
        }
        Fault::Leave(name, force) => theatre.wish(name, Wish::Leave { force }),
        Fault::Remove(name, other) => {
            theatre.wish(name, Wish::Remove { node: NodeId(other).to_string(), force: false });
        }
        Fault::Cancel(name) => theatre.wish(name, Wish::Cancel),
        Fault::Run(millis) => theatre.run(Duration::from_millis(millis)),
        _ => {}
    }
}

/// Ends all faults: everybody runs, hears everybody, and works; who has left takes part again.
fn heal(theatre: &mut Theatre) {
    if theatre.ecs.is_none() {
        theatre.start_ecs();
    }
    for name in theatre.puppets.keys().copied().collect::<Vec<_>>() {
        if let Some(p) = theatre.puppets.get_mut(&name) {
            (p.frozen, p.cut, p.stalled, p.lazy) = (false, false, false, false);
            p.deaf_to.clear();
            p.rejoin = true;
        }
        if theatre.puppets.get(&name).is_some_and(|p| !p.running || p.stopped.is_some()) {
            theatre.start(name);
        }
    }
}

/// Slots whose last copies went with their stores: unavailable for good, which the ECS must not paper over.
fn lost(theatre: &Theatre) -> bool {
    let cluster = theatre.cluster();
    let current =
        |(node, store): (&NodeId, &StoreUuid)| cluster.nodes().get(node).is_some_and(|info| info.store == *store);
    cluster.views().iter().any(|view| !view.isr.iter().any(current))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_state_is_sound_and_everything_comes_home(faults in prop::collection::vec(fault(), 1..60)) {
        let mut theatre = Theatre::new(8);
        theatre.quiet = true;
        theatre.start(1);
        theatre.run(Duration::from_millis(200));
        let mut epoch = theatre.cluster().epoch();
        for fault in &faults {
            play(&mut theatre, fault);
            prop_assert_eq!(theatre.check(), Ok(()), "after {:?}", fault);
            prop_assert!(theatre.cluster().epoch() >= epoch);
            epoch = theatre.cluster().epoch();
        }
        heal(&mut theatre);
        let home = theatre.run_until(Duration::from_secs(240), |theatre| theatre.settled() || lost(theatre));
        prop_assert!(home, "not settled:\n{}\nviews {:?}", theatre.show(), theatre.cluster().views());
        prop_assert_eq!(theatre.check(), Ok(()));
    }
}
