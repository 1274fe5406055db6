//! Confirmation rounds (R3): whether all members still follow, asked before a read is answered.

use std::collections::BTreeSet;

use common::peer::PeerMsg;
use common::{NodeId, Rule, Time};

use super::{Coordinator, Ctx};

/// Confirmation rounds (R3): one serves all reads that came before it began.
#[derive(Debug, Default)]
pub(in crate::replica) struct Rounds {
    pub(in crate::replica) latest: u64,
    pub(in crate::replica) confirmed: u64,
    acks: BTreeSet<NodeId>,
    sent: Time,
}

impl Rounds {
    /// None is open any more; numbers go on.
    pub(super) fn ended(&self) -> Rounds {
        Rounds { latest: self.latest, confirmed: self.latest, ..Rounds::default() }
    }
}

impl Coordinator {
    /// R3: joins the round that begins after now; returns its number.
    pub(in crate::replica) fn join_round(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        if self.rounds.latest > self.rounds.confirmed {
            // Answers to the open round may have been given before this read came.
            return self.rounds.latest + u64::from(!ctx.off(Rule::StaleRound));
        }
        self.begin_round(ctx);
        self.rounds.latest
    }

    fn begin_round(&mut self, ctx: &mut Ctx<'_>) {
        self.rounds.latest += 1;
        self.rounds.acks.clear();
        self.send_round(ctx);
        self.round_acked(ctx, None, false);
    }

    fn send_round(&mut self, ctx: &mut Ctx<'_>) {
        self.rounds.sent = ctx.now;
        let (slot, epoch, round) = (ctx.view.slot, ctx.view.epoch, self.rounds.latest);
        for node in self.required().map(|(node, _)| *node).collect::<Vec<_>>() {
            ctx.send(node, PeerMsg::Confirm { slot, epoch, round });
        }
    }

    pub(super) fn confirm_again(&mut self, ctx: &mut Ctx<'_>) {
        let open = self.rounds.latest > self.rounds.confirmed;
        if open && ctx.now.since(self.rounds.sent) > ctx.setup.timing.resend {
            self.send_round(ctx);
        }
    }

    /// A member confirmed; `wanted` says that reads wait for a later round.
    pub(in crate::replica) fn round_acked(&mut self, ctx: &mut Ctx<'_>, from: Option<(NodeId, u64)>, wanted: bool) {
        if let Some((node, round)) = from
            && round == self.rounds.latest
        {
            self.rounds.acks.insert(node);
        }
        let all = self.required().all(|(node, _)| self.rounds.acks.contains(node));
        if all && self.rounds.latest > self.rounds.confirmed {
            self.rounds.confirmed = self.rounds.latest;
            if wanted {
                self.begin_round(ctx);
            }
        }
    }
}
