//! I6: what is committed stays, in one order for everybody; no copy applies anything else or gives it up.

use common::retry::RetryTable;
use common::{Epoch, LogId, Seq, Slot};
use kvserver::replica::Replica;
use kvserver::storage::record::Change;
use kvserver::storage::{Record, SlotImage, SlotMap};

use super::entries::Entries;

/// The one committed log of each slot, by the epoch of each entry; and how much of it each machine has applied.
#[derive(Debug)]
pub(super) struct Commits {
    logs: Vec<Vec<Epoch>>,
    seen: Vec<Vec<Seq>>,
}

impl Commits {
    pub(super) fn new(slots: u16) -> Commits {
        Commits { logs: vec![Vec::new(); usize::from(slots)], seen: Vec::new() }
    }

    fn seen(&mut self, server: usize, slot: Slot) -> &mut Seq {
        if self.seen.len() <= server {
            self.seen.resize(server + 1, vec![Seq(0); self.logs.len()]);
        }
        &mut self.seen[server][usize::from(slot.0)]
    }

    pub(super) fn started(&mut self, server: usize, images: &[SlotImage]) {
        for (slot, image) in (0u16..).map(Slot).zip(images) {
            *self.seen(server, slot) = image.base.unwrap_or_default().seq;
        }
    }

    /// The epoch of the committed entry at `seq`.
    pub(super) fn epoch(&self, slot: Slot, seq: Seq) -> Option<Epoch> {
        let at = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        self.logs[usize::from(slot.0)].get(at).copied()
    }

    pub(super) fn last(&self, slot: Slot) -> Seq {
        Seq(self.logs[usize::from(slot.0)].len() as u64)
    }

    /// Copies begin again at nothing on purpose; and nothing committed is ever cut off.
    pub(super) fn journaled(&mut self, server: usize, record: &Record) -> Result<(), String> {
        let slot = record.slot;
        match record.change {
            Change::WalkBegin { .. } | Change::Drop { .. } => *self.seen(server, slot) = Seq(0),
            Change::Truncate { after } => {
                let seen = *self.seen(server, slot);
                if after < seen {
                    return Err(format!("I6: slot {slot}: s{server} cuts its log to {after}, below its commit {seen}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn touched(&mut self, server: usize, replica: &Replica) -> Result<(), String> {
        let slot = replica.slot();
        let (commit, seen) = (replica.commit(), *self.seen(server, slot));
        if commit == seen {
            return Ok(());
        }
        if commit < seen {
            return Err(format!("I6: slot {slot}: s{server}'s commit falls from {seen} to {commit}"));
        }
        // A coordinator that hands over may have released its slot in the very step that committed its last entry.
        let leads = matches!(replica.role_name(), "coordinator" | "handing_over");
        for seq in (seen.0 + 1..=commit.0).map(Seq) {
            let Some(epoch) = replica.image().lineage.epoch_at(seq) else { continue };
            let log = &mut self.logs[usize::from(slot.0)];
            match log.get(usize::try_from(seq.0 - 1).unwrap_or(usize::MAX)) {
                Some(known) if *known == epoch => {}
                Some(known) => {
                    let text = format!("s{server} applies entry {seq} of epoch {epoch}, committed was that of {known}");
                    return Err(format!("I6: slot {slot}: {text}"));
                }
                None if leads && log.len() as u64 + 1 == seq.0 => log.push(epoch),
                None => return Err(format!("I6: slot {slot}: s{server} applies entry {seq} before it is committed")),
            }
        }
        *self.seen(server, slot) = commit;
        Ok(())
    }

    /// The state that the committed log amounts to.
    pub(super) fn expected(&self, slot: Slot, entries: &Entries) -> (SlotMap, RetryTable) {
        let (mut map, mut retries) = (SlotMap::default(), RetryTable::default());
        for (seq, epoch) in (1u64..).map(Seq).zip(&self.logs[usize::from(slot.0)]) {
            let Some(entry) = entries.get(slot, LogId { epoch: *epoch, seq }) else { continue };
            map.apply(&entry.op);
            retries.record_entry(entry);
        }
        (map, retries)
    }
}
