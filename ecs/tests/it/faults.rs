//! Random faults against the core: whatever happens, the durable state keeps its invariants, every view follows from the
//! one before (`puppets` checks each step), and once the faults end everything comes home.

use std::time::Duration;

use crate::puppets::Theatre;
use common::control::Wish;
use common::{NodeId, StoreUuid};
use ecs::Event;
use proptest::prelude::*;

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
    let of = |theatre: &mut Theatre, name: u64, act: fn(&mut crate::puppets::Puppet)| {
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

/// Ends all faults: everybody runs, hears everybody, and works.
fn heal(theatre: &mut Theatre) {
    if theatre.ecs.is_none() {
        theatre.start_ecs();
    }
    for puppet in theatre.puppets.values_mut() {
        (puppet.frozen, puppet.cut, puppet.stalled, puppet.lazy) = (false, false, false, false);
        puppet.deaf_to.clear();
        puppet.rejoin = true;
    }
}

/// Whoever is not running, or was told to stop, takes part again.
fn revive(theatre: &mut Theatre) {
    let gone = |(name, puppet): (&u64, &crate::puppets::Puppet)| {
        (!puppet.running || puppet.stopped.is_some()).then_some(*name)
    };
    for name in theatre.puppets.iter().filter_map(gone).collect::<Vec<_>>() {
        theatre.start(name);
    }
}

/// What a user may expect once the faults have ended. A server may be told only now that it has left: hence again and
/// again.
fn comes_home(theatre: &mut Theatre) -> bool {
    heal(theatre);
    (0..240).any(|_| {
        revive(theatre);
        theatre.run_until(Duration::from_secs(1), |theatre| theatre.settled() || lost(theatre))
    })
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
        let home = comes_home(&mut theatre);
        prop_assert!(home, "not settled:\n{}\nviews {:?}", theatre.show(), theatre.cluster().views());
        prop_assert_eq!(theatre.check(), Ok(()));
    }
}

/// The ECS dies between the durable end of a leave and telling the leaver, which hears of it from the next one.
#[test]
fn a_leaver_that_hears_of_it_only_after_a_restart_of_the_ecs_can_come_back() {
    let mut theatre = Theatre::new(8);
    theatre.start(1);
    theatre.run(Duration::from_millis(200));
    let faults = [
        Fault::Start(2),
        Fault::Run(65_000),
        Fault::Stall(1, true),
        Fault::Run(65_000),
        Fault::Leave(1, false),
        Fault::Ecs(false),
    ];
    faults.iter().for_each(|fault| play(&mut theatre, fault));
    assert!(theatre.puppets.values().all(|puppet| puppet.stopped.is_none()));
    assert!(comes_home(&mut theatre), "not settled:\n{}", theatre.show());
    let told = theatre.log.iter().any(|line| line.contains("n1 hears: you have left"));
    assert!(told, "{:#?}", theatre.log);
    assert_eq!(theatre.check(), Ok(()));
}
