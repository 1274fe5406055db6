//! What must hold of the replication protocol at every moment; the names are those of `docs/replication.md`.
//!
//! The checks look at the cores from outside and remember what was ever said, journaled and committed anywhere. Where a
//! history of client operations shows that something went wrong, an invariant shows what and when.

mod commits;
mod entries;
mod epochs;
mod extents;
mod keyranges;
mod leaders;
mod members;
mod readers;

use common::peer::{Identity, PeerMsg};
use common::retry::RetryTable;
use common::{Epoch, Seq, Slot, Time, View};
use kvserver::replica::Replica;
use kvserver::storage::{Record, SlotImage, SlotMap};

pub use self::extents::Count;
pub use self::keyranges::keyranges;

/// One running copy of a slot.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Which machine.
    pub server: usize,
    /// Which process.
    pub me: Identity,
    /// What it has.
    pub replica: &'a Replica,
}

/// Everything the checks remember.
#[derive(Debug)]
pub struct Checks {
    leaders: leaders::Leaders,
    entries: entries::Entries,
    epochs: epochs::Epochs,
    commits: commits::Commits,
    extents: extents::Extents,
    views: Vec<View>,
    /// Requests that were executed, by slot.
    executed: std::collections::BTreeSet<(Slot, common::ClientId, u64)>,
    /// Machines whose disk has once lost what was fsynced: they may lack what is committed.
    forgetful: std::collections::BTreeSet<usize>,
    failure: Option<String>,
}

impl Checks {
    /// Of a ring with so many slots.
    #[must_use]
    pub fn new(slots: u16) -> Checks {
        Checks {
            leaders: leaders::Leaders::default(),
            entries: entries::Entries::default(),
            epochs: epochs::Epochs::default(),
            commits: commits::Commits::new(slots),
            extents: extents::Extents::new(slots),
            views: Vec::new(),
            executed: std::collections::BTreeSet::new(),
            forgetful: std::collections::BTreeSet::new(),
            failure: None,
        }
    }

    fn note(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            self.failure.get_or_insert(text);
        }
    }

    /// A process has recovered these images (I2, I5).
    pub fn started(&mut self, server: usize, me: &Identity, images: &[SlotImage], views: &[View]) {
        for (slot, image) in (0u16..).map(Slot).zip(images) {
            let result = self.epochs.recovered(server, slot, image);
            self.note(result);
            if let Some(view) = views.iter().find(|view| view.slot == slot)
                && !self.has_forgotten(server, slot, image)
            {
                let result = members::recovered(server, me, view, image, &self.commits);
                self.note(result);
            }
        }
        self.commits.started(server, images);
    }

    /// A machine's disk loses what was fsynced.
    pub fn forgetful(&mut self, server: usize) {
        self.forgetful.insert(server);
    }

    /// Whether that has ever happened to it.
    #[must_use]
    pub fn is_forgetful(&self, server: usize) -> bool {
        self.forgetful.contains(&server)
    }

    fn has_forgotten(&self, server: usize, slot: Slot, image: &SlotImage) -> bool {
        self.is_forgetful(server) && image.end().seq < self.commits.last(slot)
    }

    /// A process is gone.
    pub fn stopped(&mut self, server: usize) {
        self.epochs.stopped(server);
    }

    /// A machine's directory is gone.
    pub fn wiped(&mut self, server: usize) {
        self.epochs.wiped(server);
    }

    /// A replica says something that others will rely on (I5).
    pub fn said(&mut self, server: usize, _me: &Identity, msg: &PeerMsg) {
        if let PeerMsg::SyncAck { slot, epoch, .. } | PeerMsg::PutAck { slot, epoch, .. } = msg {
            self.epochs.acknowledged(server, *slot, *epoch);
        }
    }

    /// A replica journals a record (I4, I6).
    pub fn journaled(&mut self, server: usize, record: &Record) {
        let result = self.entries.journaled(record);
        self.note(result);
        let result = self.commits.journaled(server, record);
        self.note(result);
    }

    /// The ECS has made views that are durable.
    pub fn decided(&mut self, views: &[View]) {
        self.views.clear();
        self.views.extend_from_slice(views);
    }

    /// The last durable view of a slot that the checks were told of.
    #[must_use]
    pub fn view(&self, slot: Slot) -> Option<&View> {
        self.views.get(usize::from(slot.0))
    }

    /// A replica has handled something (I1, I5, I6).
    ///
    /// # Errors
    /// What does not hold.
    pub fn touched(&mut self, server: usize, me: &Identity, replica: &Replica) -> Result<(), String> {
        if let Some(text) = self.failure.take() {
            return Err(text);
        }
        self.leaders.touched(server, me, replica)?;
        self.epochs.touched(server, replica)?;
        let slot = replica.slot();
        let before = self.commits.last(slot);
        self.commits.touched(server, replica)?;
        (before.0 + 1..=self.commits.last(slot).0).map(Seq).try_for_each(|seq| self.executes(slot, seq))
    }

    /// Exactly once: no request is committed a second time.
    fn executes(&mut self, slot: Slot, seq: Seq) -> Result<(), String> {
        let epoch = self.commits.epoch(slot, seq).unwrap_or_default();
        let entry = self.entries.get(slot, common::LogId { epoch, seq });
        if let Some(entry) = entry {
            self.extents.committed(slot, entry);
        }
        let Some(request) = entry.and_then(|entry| entry.request) else { return Ok(()) };
        if self.executed.insert((slot, request.client, request.seq)) {
            return Ok(());
        }
        Err(format!("exactly once: slot {slot}: request {request:?} is committed again, as entry {seq}"))
    }

    /// The entries that are committed, in their order.
    pub fn log(&self, slot: Slot) -> impl Iterator<Item = &common::Entry> {
        let name = move |seq| Some(common::LogId { epoch: self.commits.epoch(slot, seq)?, seq });
        (1..=self.commits.last(slot).0).map(Seq).filter_map(move |seq| self.entries.get(slot, name(seq)?))
    }

    /// The epoch at which `replica` leads its slot at this moment: active, with a valid lease (I7).
    #[must_use]
    pub fn leads(&self, _server: usize, replica: &Replica, now: Time) -> Option<Epoch> {
        let leads = replica.is_active() && replica.may_read(now);
        leads.then(|| replica.view().map(|view| view.epoch)).flatten()
    }

    /// Whether `replica`, if it holds a lease at this moment, can know what is committed (R2).
    ///
    /// # Errors
    /// It cannot.
    pub fn reads(&self, server: usize, replica: &Replica, now: Time) -> Result<(), String> {
        readers::check(server, replica.slot(), replica, now, self.commits.last(replica.slot()))
    }

    /// Looks at all copies of a slot at once (I2, I3).
    ///
    /// # Errors
    /// What does not hold.
    pub fn survey(&self, slot: Slot, copies: &[Copy<'_>]) -> Result<(), String> {
        let Some(view) = self.view(slot) else { return Ok(()) };
        let sound = |copy: &Copy<'_>| !self.has_forgotten(copy.server, slot, copy.replica.image());
        members::survey(view, copies, sound, &self.commits)
    }

    /// Somebody asks what all slots hold: until [`Checks::unwatch`] it is remembered what each of them held.
    pub fn watch(&mut self) -> u32 {
        self.extents.watch()
    }

    /// The question is over.
    pub fn unwatch(&mut self, watch: u32) {
        self.extents.unwatch(watch);
    }

    /// The answer was that there are so many keys.
    ///
    /// # Errors
    /// There never were.
    pub fn counted(&self, watch: u32, number: u64) -> Result<(), String> {
        self.extents.counted(watch, number)
    }

    /// The answer was that this is the first or the last key, or that there is none.
    ///
    /// # Errors
    /// It never was.
    pub fn outermost(&self, watch: u32, count: Count, told: Option<&bytes::Bytes>) -> Result<(), String> {
        self.extents.outermost(watch, count, told)
    }

    /// How much of the slot is committed anywhere.
    #[must_use]
    pub fn committed(&self, slot: Slot) -> Seq {
        self.commits.last(slot)
    }

    /// What every in-sync copy of the slot must hold once it is quiet.
    #[must_use]
    pub fn expected(&self, slot: Slot) -> (SlotMap, RetryTable) {
        self.commits.expected(slot, &self.entries)
    }
}
