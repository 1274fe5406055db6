//! Who may talk to whom: the verdict on a hello. Pure.

use common::peer::{Identity, Purpose};

/// The longest hello, and the longest answer to one: whatever announces more is no peer.
pub(crate) const LONGEST: usize = 4096;

/// Whether the listener `me` wants a connection from `from`; `known` is the latest start of that node that it has heard of.
///
/// # Errors
/// The sentence that the caller is told.
pub(crate) fn admit(me: &Identity, purpose: Purpose, from: &Identity, known: Option<&Identity>) -> Result<(), String> {
    if purpose == Purpose::Probe {
        return Ok(());
    }
    if me.cluster.is_none() {
        return Err("not registered with the ECS yet: try again".into());
    }
    if from.cluster != me.cluster {
        return Err(format!("you belong to {}, this is {}", cluster(from), cluster(me)));
    }
    if from.node == me.node {
        return Err(format!("node {} is me: is your data directory a copy of mine?", me.node));
    }
    let Some(known) = known else { return Ok(()) };
    if from.boot < known.boot {
        return Err(format!("start {} of node {} is over: start {} was seen", from.boot, from.node, known.boot));
    }
    if from.boot == known.boot && from.store != known.store {
        return Err(format!("node {} has store {}, not {}", from.node, known.store, from.store));
    }
    Ok(())
}

/// Whether the one who answered at a node's address is the node that was meant.
///
/// # Errors
/// Who it is instead.
pub(crate) fn expect(me: &Identity, wanted: common::NodeId, answered: &Identity) -> Result<(), String> {
    if answered.cluster != me.cluster {
        return Err(format!("the address now belongs to {}", cluster(answered)));
    }
    if answered.node != wanted {
        return Err(format!("the address now belongs to node {}", answered.node));
    }
    Ok(())
}

fn cluster(identity: &Identity) -> String {
    identity.cluster.map_or_else(|| "no cluster yet".into(), |id| format!("cluster {id}"))
}

#[cfg(test)]
mod tests {
    use common::{BootId, ClusterId, NodeId, StoreUuid};

    use super::*;

    fn who(cluster: u128, node: u64, store: u128, boot: u64) -> Identity {
        let cluster = (cluster > 0).then_some(ClusterId(cluster));
        Identity { cluster, node: NodeId(node), store: StoreUuid(store), boot: BootId(boot) }
    }

    #[test]
    fn a_peer_of_the_same_cluster_is_let_in() {
        let (me, peer) = (who(1, 1, 1, 1), who(1, 2, 2, 5));
        assert_eq!(admit(&me, Purpose::Data, &peer, None), Ok(()));
        assert_eq!(admit(&me, Purpose::Data, &peer, Some(&peer)), Ok(()));
        assert_eq!(admit(&me, Purpose::Pulse, &who(1, 2, 3, 6), Some(&peer)), Ok(()));
    }

    #[test]
    fn strangers_copies_and_ghosts_are_kept_out() {
        let (me, known) = (who(1, 1, 1, 1), who(1, 2, 2, 5));
        let refused = |from: &Identity| admit(&me, Purpose::Data, from, Some(&known)).unwrap_err();
        assert!(refused(&who(2, 2, 2, 5)).contains("you belong to cluster"));
        assert!(refused(&who(0, 2, 2, 5)).contains("no cluster yet"));
        assert!(refused(&who(1, 1, 1, 1)).contains("is me"));
        assert!(refused(&who(1, 2, 2, 4)).contains("is over"));
        assert!(refused(&who(1, 2, 9, 5)).contains("has store"));
    }

    #[test]
    fn a_probe_is_always_answered() {
        assert_eq!(admit(&who(0, 1, 1, 1), Purpose::Probe, &Identity::default(), None), Ok(()));
    }

    #[test]
    fn the_one_who_answers_must_be_the_one_who_was_called() {
        let me = who(1, 1, 1, 1);
        assert_eq!(expect(&me, NodeId(2), &who(1, 2, 2, 5)), Ok(()));
        assert!(expect(&me, NodeId(2), &who(1, 3, 3, 1)).unwrap_err().contains("node 0000000000000003"));
        assert!(expect(&me, NodeId(2), &who(7, 2, 2, 5)).unwrap_err().contains("cluster"));
    }
}
