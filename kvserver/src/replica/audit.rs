//! Repair (anti-entropy): do all in-sync copies hold the same, at the same position?
//!
//! The coordinator names a position and its root digest; a member compares when it stands at exactly that position, so
//! writes go on meanwhile. Copies that differ are compared leaf by leaf, and in the leaves that differ record by record.
//! What the log has made equal can only differ by damage, and an in-sync map is never changed outside the log (merging two
//! copies would bring deleted keys back). So a copy is condemned as a whole, taken out and caught up by content: first the
//! one whose record fails its own checksum; else the one that is outvoted; and if nobody is, the slot stops with an alarm.
//! A coordinator that is in the wrong hands over first.
//!
//! What this does not find: a wrong record that all copies agree on, and damage on disk that was not read back yet
//! (`storage/scrub.rs` looks for that).

use std::collections::{BTreeMap, BTreeSet};

use common::blob::Blob;
use common::control::Change;
use common::peer::{AuditFound, AuditOf, PeerMsg};
use common::{NodeId, Seq, Time};

use super::action::{Action, Audited};
use super::coordinator::{Coordinator, Ctx, Phase};
use super::follower::Follower;
use super::progress::Standing;
use crate::storage::SlotMap;

/// Leaves compared record by record at a time; what lies in others is found by the next audit.
const LEAVES_AT_ONCE: usize = 16;
/// Differences told one by one in the log.
const TOLD: usize = 20;

/// An audit under way, at its coordinator.
#[derive(Debug)]
pub(super) struct Audit {
    number: u64,
    since: Time,
    mine: Mine,
    answers: BTreeMap<NodeId, AuditFound>,
}

/// The coordinator's own copy at the audit's position.
#[derive(Debug)]
enum Mine {
    Digests(Vec<u64>),
    Records { leaves: Vec<u16>, records: Vec<(Blob, u64)> },
}

impl Coordinator {
    /// Compares all copies, unless some are missing (they are being caught up by content as it is) or an audit is under way.
    pub(super) fn begin_audit(&mut self, ctx: &mut Ctx<'_>) {
        let busy = self.audit.as_ref().is_some_and(|audit| ctx.now.since(audit.since) < ctx.setup.timing.lease);
        if self.phase != Phase::Active || busy || ctx.view.isr.len() < ctx.view.targets.len() {
            return;
        }
        match ctx.log.image.map.verified() {
            Ok(digests) => self.ask(ctx, Mine::Digests(digests)),
            Err(key) => self.found_damaged_here(ctx, &key),
        }
    }

    fn members(&self) -> impl Iterator<Item = NodeId> {
        self.followers.iter().filter(|(_, f)| f.standing == Standing::Member).map(|(node, _)| *node)
    }

    fn ask(&mut self, ctx: &mut Ctx<'_>, mine: Mine) {
        let (number, at) = (self.next_walk(), ctx.log.commit());
        let what = match &mine {
            Mine::Digests(digests) => AuditOf::Root(SlotMap::root_of(digests)),
            Mine::Records { leaves, .. } => AuditOf::Leaves(leaves.clone()),
        };
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        for node in self.members() {
            ctx.send(node, PeerMsg::Audit { slot, epoch, audit: number, at, what: what.clone() });
        }
        self.audit = Some(Audit { number, since: ctx.now, mine, answers: BTreeMap::new() });
        self.judge(ctx);
    }

    /// A member has compared.
    pub(super) fn audit_answer(&mut self, ctx: &mut Ctx<'_>, node: NodeId, number: u64, found: AuditFound) {
        if let Some(audit) = self.audit.as_mut().filter(|audit| audit.number == number) {
            audit.answers.insert(node, found);
            self.judge(ctx);
        }
    }

    /// Once all members have answered.
    fn judge(&mut self, ctx: &mut Ctx<'_>) {
        let members: BTreeSet<NodeId> = self.members().collect();
        let complete = |audit: &mut Audit| members.iter().all(|node| audit.answers.contains_key(node));
        let Some(Audit { mine, answers, .. }) = self.audit.take_if(complete) else { return };
        let damaged = answers.iter().find(|(node, found)| **found == AuditFound::Damaged && members.contains(node));
        if let Some((node, _)) = damaged {
            log::warn!("slot {}: {node} holds a record that fails its checksum", ctx.view.slot);
            return self.distrust(ctx, *node, 1);
        }
        if answers.values().any(|found| *found == AuditFound::Missed) {
            return ctx.out.push(Action::Audited(Audited::Missed));
        }
        match mine {
            Mine::Digests(mine) => self.judge_digests(ctx, &mine, &answers),
            Mine::Records { records, .. } => {
                let mut copies = BTreeMap::from([(ctx.setup.me.node, records)]);
                for (node, found) in answers {
                    if let AuditFound::Records(records) = found {
                        copies.insert(node, records);
                    }
                }
                self.judge_records(ctx, &copies);
            }
        }
    }

    fn judge_digests(&mut self, ctx: &mut Ctx<'_>, mine: &[u64], answers: &BTreeMap<NodeId, AuditFound>) {
        let mut leaves = BTreeSet::new();
        for found in answers.values() {
            let AuditFound::Digests(theirs) = found else { continue };
            let differs = |leaf: &u16| theirs.get(usize::from(*leaf)) != mine.get(usize::from(*leaf));
            leaves.extend((0..u16::try_from(mine.len()).unwrap_or(0)).filter(differs));
        }
        if leaves.is_empty() {
            return ctx.out.push(Action::Audited(Audited::Equal));
        }
        let leaves: Vec<u16> = leaves.into_iter().take(LEAVES_AT_ONCE).collect();
        let records = ctx.log.image.map.records_of(&leaves);
        self.ask(ctx, Mine::Records { leaves, records });
    }

    fn judge_records(&mut self, ctx: &mut Ctx<'_>, copies: &BTreeMap<NodeId, Vec<(Blob, u64)>>) {
        let (slot, me) = (ctx.view.slot, ctx.setup.me.node);
        let verdict = Verdict::of(copies);
        for line in verdict.told.iter().take(TOLD) {
            log::warn!("slot {slot}: {line}");
        }
        let wrong = |node: &NodeId| verdict.wrong.get(node).copied().unwrap_or(0);
        if wrong(&me) > 0 {
            ctx.log.distrusted = true;
            ctx.out.push(Action::Audited(Audited::Condemned { node: me, records: wrong(&me) }));
            let successor = self.members().find(|node| wrong(node) == 0);
            return match successor {
                Some(successor) => self.hand_over(ctx, successor),
                None => {
                    self.condemned = Some(format!("slot {slot}: every copy holds a record that the others contradict"));
                }
            };
        }
        match verdict.wrong.iter().next() {
            Some((node, records)) => self.distrust(ctx, *node, *records),
            None if verdict.undecided > 0 => {
                let (undecided, copies) = (verdict.undecided, copies.len());
                ctx.out.push(Action::Audited(Audited::Undecided { records: undecided }));
                self.condemned = Some(format!(
                    "slot {slot}: {undecided} records differ between {copies} copies and none is outvoted: {}",
                    verdict.told.first().map_or("", String::as_str)
                ));
            }
            // It was gone when it was looked at closely: something between the two looks has healed it.
            None => ctx.out.push(Action::Audited(Audited::Equal)),
        }
    }

    fn distrust(&self, ctx: &mut Ctx<'_>, node: NodeId, records: u64) {
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        log::warn!("slot {slot}: the copy of {node} is wrong in {records} records; it is taken out and made anew");
        ctx.out.push(Action::Audited(Audited::Condemned { node, records }));
        ctx.send(node, PeerMsg::Distrust { slot, epoch });
    }

    /// This server's own memory is damaged: another must coordinate; if there is none, nobody must be told wrong values.
    fn found_damaged_here(&mut self, ctx: &mut Ctx<'_>, key: &[u8]) {
        let (slot, node, key) = (ctx.view.slot, ctx.setup.me.node, String::from_utf8_lossy(key));
        log::error!("slot {slot}: the record of {key:?} fails its checksum in this server's memory");
        ctx.log.distrusted = true;
        ctx.out.push(Action::Audited(Audited::Condemned { node, records: 1 }));
        let successor = self.members().next();
        match successor {
            Some(successor) => self.hand_over(ctx, successor),
            None => {
                let what = format!("the record of {key:?} fails its checksum and there is no other copy");
                self.condemned = Some(format!("slot {slot}: {what}: restart this server to read it back from disk"));
            }
        }
    }

    /// A member without a usable position must not count any longer (C2), though it is not silent.
    pub(super) fn demote(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        if follower.may_ask(ctx.now, &ctx.setup.timing) {
            ctx.ask(Change::Demote { node });
        }
    }
}

/// A member's part of an audit: the question that waits for its position.
#[derive(Debug)]
pub(super) struct Question {
    audit: u64,
    pub(super) at: Seq,
    what: AuditOf,
}

impl Follower {
    /// The coordinator asks what this copy is at `at`.
    pub(super) fn asked(&mut self, ctx: &mut Ctx<'_>, audit: u64, at: Seq, what: AuditOf) {
        if !self.synced || ctx.log.distrusted || at < ctx.log.commit() {
            return answer(ctx, audit, AuditFound::Missed);
        }
        self.question = Some(Question { audit, at, what });
        self.compare(ctx);
    }

    /// Answers the question that waits, if this copy stands where it asks.
    pub(super) fn compare(&mut self, ctx: &mut Ctx<'_>) {
        let here = ctx.log.commit();
        let Some(question) = self.question.take_if(|question| question.at <= here) else { return };
        let found = match (ctx.log.image.map.verified(), question.what) {
            _ if question.at != here => AuditFound::Missed,
            (Err(_), _) => AuditFound::Damaged,
            (Ok(digests), AuditOf::Root(root)) if SlotMap::root_of(&digests) == root => AuditFound::Equal,
            (Ok(digests), AuditOf::Root(_)) => AuditFound::Digests(digests),
            (Ok(_), AuditOf::Leaves(leaves)) => AuditFound::Records(ctx.log.image.map.records_of(&leaves)),
        };
        answer(ctx, question.audit, found);
    }
}

fn answer(ctx: &mut Ctx<'_>, audit: u64, found: AuditFound) {
    let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
    ctx.send(ctx.view.coordinator, PeerMsg::AuditAck { slot, epoch, audit, found });
}

/// Who is outvoted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// In how many records.
    wrong: BTreeMap<NodeId, u64>,
    /// Records of which no version has more than half of the copies.
    undecided: u64,
    /// Each difference, for people.
    told: Vec<String>,
}

impl Verdict {
    fn of(copies: &BTreeMap<NodeId, Vec<(Blob, u64)>>) -> Verdict {
        let mut verdict = Verdict::default();
        let mut versions: BTreeMap<&Blob, BTreeMap<NodeId, u64>> = BTreeMap::new();
        for (node, records) in copies {
            for (key, digest) in records {
                versions.entry(key).or_default().insert(*node, *digest);
            }
        }
        for (key, held) in versions {
            let versions: Vec<_> = copies.keys().map(|node| (*node, held.get(node).copied())).collect();
            verdict.vote(key, &versions);
        }
        verdict
    }

    fn vote(&mut self, key: &Blob, versions: &[(NodeId, Option<u64>)]) {
        let mut votes: BTreeMap<Option<u64>, usize> = BTreeMap::new();
        for (_, version) in versions {
            *votes.entry(*version).or_default() += 1;
        }
        if votes.len() == 1 {
            return;
        }
        let key = String::from_utf8_lossy(&key.0);
        let Some((right, _)) = votes.iter().find(|(_, count)| **count * 2 > versions.len()) else {
            self.undecided += 1;
            return self.told.push(format!("{key:?}: no version of this record is held by most copies: {versions:?}"));
        };
        for (node, version) in versions.iter().filter(|(_, version)| version != right) {
            *self.wrong.entry(*node).or_default() += 1;
            let what = match (version, right) {
                (None, _) => "lacks a record that the others have",
                (_, None) => "has a record that the others have not",
                _ => "has another value than the others",
            };
            self.told.push(format!("{key:?}: {node} {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(all: &[&[(&'static str, u64)]]) -> BTreeMap<NodeId, Vec<(Blob, u64)>> {
        let records =
            |copy: &[(&'static str, u64)]| copy.iter().map(|(k, d)| (Blob(bytes::Bytes::from(*k)), *d)).collect();
        all.iter().zip(1..).map(|(copy, node)| (NodeId(node), records(copy))).collect()
    }

    fn wrong(all: &[&[(&'static str, u64)]]) -> (Vec<(u64, u64)>, u64) {
        let verdict = Verdict::of(&copies(all));
        (verdict.wrong.iter().map(|(node, records)| (node.0, *records)).collect(), verdict.undecided)
    }

    #[test]
    fn the_outvoted_copy_is_wrong_whatever_its_fault() {
        assert_eq!(wrong(&[&[("a", 1)], &[("a", 1)], &[("a", 1)]]), (vec![], 0));
        assert_eq!(wrong(&[&[("a", 1)], &[("a", 2)], &[("a", 1)]]), (vec![(2, 1)], 0));
        assert_eq!(wrong(&[&[("a", 1), ("b", 1)], &[("a", 1)], &[("a", 1)]]), (vec![(1, 1)], 0));
        assert_eq!(wrong(&[&[("a", 1)], &[("a", 1)], &[]]), (vec![(3, 1)], 0));
        assert_eq!(
            wrong(&[&[("a", 1), ("b", 2)], &[("a", 2), ("b", 2)], &[("a", 1), ("b", 3)]]),
            (vec![(2, 1), (3, 1)], 0)
        );
    }

    #[test]
    fn half_of_the_copies_is_no_majority() {
        assert_eq!(wrong(&[&[("a", 1)], &[("a", 2)]]), (vec![], 1));
        assert_eq!(wrong(&[&[("a", 1)], &[]]), (vec![], 1));
        assert_eq!(wrong(&[&[("a", 1)], &[("a", 2)], &[("a", 3)]]), (vec![], 1));
        assert_eq!(wrong(&[&[("a", 1)], &[("a", 1)], &[("a", 3)], &[]]), (vec![], 1));
    }
}
