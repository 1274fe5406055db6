//! One slot's replication protocol at one server: PacificA (a configuration master, all-ack commit, leases between peers)
//! with CRAQ's clean/dirty rule for reads at replicas. `docs/replication.md` has the rules; their names (W1, C5, L4, ...)
//! stand in the code where they are kept.
//!
//! A pure state machine: events go in, actions come out, time is an argument. The same code runs behind real sockets and
//! in the simulation. It deliberately knows no sockets, no files, no other slots and no clock; its shell performs the
//! actions in order, and may lose any message.
//!
//! By role: [`coordinator`] (with [`progress`] per follower, [`walk`] for catching up by content, and [`parked`] writes),
//! [`follower`] (members and learners). Shared by all: [`log`], [`lease`], [`reads`]. What a write comes to: [`decide`], with
//! [`evaluate`] for conditions and sums; what becomes of keys that have a deadline: [`expiry`].

mod action;
mod audit;
mod awaited;
mod coordinator;
mod decide;
mod evaluate;
mod expiry;
mod explain;
mod follower;
mod inspect;
mod lease;
mod log;
mod parked;
mod progress;
mod reading;
mod reads;
mod traffic;
mod walk;

use std::time::Duration;

use common::peer::{Beacon, BeaconAck, Identity, PeerMsg};
use common::view::Part;
use common::{BootId, Epoch, NodeId, Rule, Slot, Switches, Time, Timing, View, Wall};

pub use self::action::{
    Action, Audited, Event, Extent, Lasting, Moved, Read, Refusal, Reply, Scan, Token, Told, Walked, Write, WriteOp,
};
use self::coordinator::{Coordinator, Ctx, Pace};
use self::follower::{Author, Follower};
use self::lease::Leases;
use self::log::Log;
pub use self::log::SHARED;
use self::parked::Parked;
use self::progress::is_answer;
use self::reading::Leave;
use self::reads::{Asker, MAX_WAITING, Need, Reads, Waiting};
pub use self::traffic::Traffic;
use crate::storage::record::Change;
use crate::storage::{SlotImage, SlotMap};

/// What every replica of a process shares.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who this process is.
    pub me: Identity,
    /// The cluster's durations.
    pub timing: Timing,
    /// When this process started: promises given before are unknown (L3).
    pub started: Time,
    /// There is no cluster: nobody else can ever have been promised anything.
    pub standalone: bool,
    /// Ask every member before a read is answered, instead of trusting the lease (R3).
    pub confirm_reads: bool,
    /// How many catch-ups there are at a time, and how fast they go.
    pub traffic: Traffic,
    /// How long a value may become.
    pub longest_value: usize,
    /// Rules that are off; none in a product build.
    pub switches: Switches,
}

impl Setup {
    /// Whether promises of an earlier start may still bind. A directory's first start had none before it.
    fn waits_after_boot(&self) -> bool {
        !self.standalone && self.me.boot > BootId(1)
    }

    /// [`Timing::held`].
    fn held(&self) -> Duration {
        if self.switches.off(Rule::NoDrift) { self.timing.lease } else { self.timing.held() }
    }

    /// [`Timing::promised`].
    fn promised(&self) -> Duration {
        if self.switches.off(Rule::NoDrift) { self.timing.lease } else { self.timing.promised() }
    }

    /// [`Timing::granted`].
    fn granted(&self, length: Duration) -> Duration {
        if self.switches.off(Rule::NoDrift) { length } else { Timing::granted(length) }
    }
}

/// What a server is to the slot.
#[derive(Debug)]
enum Role {
    /// No view, or no part in it.
    Outside,
    /// The view names an earlier start of this server as coordinator: a newer view must come (C6).
    Former,
    Follower(Follower),
    Coordinator(Box<Coordinator>),
}

/// One slot at one server.
#[derive(Debug)]
pub struct Replica {
    slot: Slot,
    setup: Setup,
    view: Option<View>,
    log: Log,
    leases: Leases,
    reads: Reads,
    role: Role,
    /// Who proposed the last entries of the log, while this copy followed.
    author: Option<Author>,
    writable: bool,
    /// Set once, when something that must never happen was seen; nothing is served or acknowledged from then on.
    stopped: Option<String>,
    wake: Option<Time>,
    wall: Wall,
}

impl Replica {
    /// A replica as it starts, from what recovery found.
    #[must_use]
    pub fn new(slot: Slot, setup: Setup, image: SlotImage) -> Replica {
        let view = image.view.clone();
        let mut this = Replica {
            slot,
            log: Log::new(slot, setup.switches, image),
            reads: Reads::new(setup.me.boot),
            setup,
            view,
            leases: Leases::default(),
            role: Role::Outside,
            author: None,
            writable: true,
            stopped: None,
            wake: None,
            wall: Wall::default(),
        };
        this.role = match this.part() {
            Part::Coordinator => Role::Former,
            Part::None => Role::Outside,
            part => Role::Follower(Follower::new(part, 0, None)),
        };
        this
    }

    /// Takes one event; what must be done about it is appended to `out`, to be performed in order.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        if self.stopped.is_some() {
            if let Event::Write { token, .. } = event {
                out.push(Action::Reply { token, reply: Reply::Refused(STOPPED) });
            }
            return;
        }
        match event {
            Event::View(view) => self.adopt(now, &view, out),
            Event::Peer { from, msg } => self.peer(now, from, msg, out),
            Event::Durable { mark } => {
                self.log.synced(mark);
                self.on_durable(now, out);
            }
            Event::Write { write, token } => self.write(now, write, token, out),
            Event::HandOver { epoch, to } => {
                if self.epoch() == Some(epoch) {
                    self.coordinate(now, out, |c, ctx| c.hand_over(ctx, to));
                }
            }
            Event::Drop { epoch } => self.drop_copy(epoch, out),
            Event::LinkUp { peer } => self.coordinate(now, out, |c, ctx| c.resend(ctx, peer)),
            Event::Disk { writable } => {
                self.writable = writable;
                if let Role::Coordinator(c) = &mut self.role {
                    c.writable = writable;
                }
            }
            Event::Audit => self.coordinate(now, out, Coordinator::begin_audit),
            Event::Tick => {
                self.wake = None;
                self.coordinate(now, out, Coordinator::tick);
            }
        }
        self.stop_if_condemned(out);
        self.pump_reads(now, out);
        self.schedule(now);
        debug_assert!(self.log.commit() <= self.log.end().seq, "I6");
    }

    /// How the wall clock stands now. To be told before anything else, and at least every 100 ms while some key has a
    /// deadline; who never tells it has keys that last.
    pub fn set_wall(&mut self, wall: Wall) {
        self.wall = wall;
    }

    /// When [`Event::Tick`] is wanted next, if at all.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.wake
    }

    /// What happens meanwhile never puts a tick off: a slot with more events than ticks would have none.
    fn schedule(&mut self, now: Time) {
        let wanted = self.wanted(now);
        self.wake = match self.wake {
            Some(due) if wanted.is_some() => wanted.map(|wanted| wanted.min(due)),
            _ => wanted,
        };
    }

    /// When the next tick would be, counted from now.
    fn wanted(&self, now: Time) -> Option<Time> {
        let beacon = self.setup.timing.beacon;
        let wake = match &self.role {
            Role::Coordinator(c) => {
                // All slots at the same moments, so that whoever lets time pass for them wakes once for all.
                let mut wake = now.next_multiple_of(match c.pace() {
                    Pace::Idle => beacon * 4,
                    Pace::Waiting => beacon,
                    Pace::Busy => beacon / 5,
                });
                for precise in [c.active_from, self.leases.outsiders_until()] {
                    if precise > now {
                        wake = wake.min(precise);
                    }
                }
                Some(wake)
            }
            _ => None,
        };
        let soon = now + beacon / 5;
        let wake = match (wake, self.next_deadline()) {
            (Some(wake), Some(due)) => Some(wake.min(due.max(soon))),
            (wake, _) => wake,
        };
        if !self.reads.waiting.is_empty() {
            return Some(wake.map_or(soon, |wake| wake.min(soon)));
        }
        wake
    }

    fn part(&self) -> Part {
        self.view.as_ref().map_or(Part::None, |view| view.part_of(self.setup.me.node, self.setup.me.store))
    }

    fn epoch(&self) -> Option<Epoch> {
        self.view.as_ref().map(|view| view.epoch)
    }

    /// Runs `step` if this server coordinates the slot.
    fn coordinate(&mut self, now: Time, out: &mut Vec<Action>, step: impl FnOnce(&mut Coordinator, &mut Ctx<'_>)) {
        let (Role::Coordinator(c), Some(view)) = (&mut self.role, &self.view) else { return };
        let (setup, log, leases) = (&self.setup, &mut self.log, &mut self.leases);
        step(c, &mut Ctx { now, wall: self.wall, setup, view, log, leases, out });
    }

    /// Adopts a newer view, durably (C2 to C6, L4).
    fn adopt(&mut self, now: Time, view: &View, out: &mut Vec<Action>) {
        // What C6 forbids: going on in the epoch that was coordinated before the restart.
        let resumes = self.setup.switches.off(Rule::ResumeEpoch) && matches!(self.role, Role::Former);
        let old = |epoch| view.epoch < epoch || (view.epoch == epoch && !resumes);
        if view.slot != self.slot || self.epoch().is_some_and(old) {
            return;
        }
        if let Role::Coordinator(c) = &mut self.role {
            c.unlock(now, out);
        }
        let old = self.view.replace(view.clone());
        if let Some(old) = old.as_ref().filter(|old| self.log.end().epoch == old.epoch) {
            self.author = Some(Author::of(old));
        }
        self.log.adopt(view, out);
        self.leases.adopt(view, &self.setup);
        self.reads.start_over();
        let continues = match (&self.role, &old) {
            (Role::Coordinator(c), Some(old)) => c.continues(old, view),
            _ => false,
        };
        if continues {
            return self.coordinate(now, out, Coordinator::carry_on);
        }
        let part = self.part();
        let mut parked = Parked::default();
        if let Role::Coordinator(c) = std::mem::replace(&mut self.role, Role::Outside) {
            parked = c.retire(part, out);
            self.log.image.map.watch_deadlines(false);
        }
        self.log.pin(None);
        let mine = view.coordinator_boot == self.setup.me.boot || self.setup.switches.off(Rule::ResumeEpoch);
        self.role = match part {
            Part::Coordinator if mine => {
                let (setup, log, leases) = (&self.setup, &mut self.log, &mut self.leases);
                let mut ctx = Ctx { now, wall: self.wall, setup, view, log, leases, out };
                let mut coordinator = Box::new(Coordinator::recovering(&mut ctx, self.writable));
                coordinator.inherit(parked);
                coordinator.step(&mut ctx);
                Role::Coordinator(coordinator)
            }
            Part::Coordinator => Role::Former,
            Part::None => Role::Outside,
            part => Role::Follower(Follower::new(part, self.view_mark(), self.author)),
        };
    }

    /// The mark that must be on disk before anything is said at the present epoch (W2).
    fn view_mark(&self) -> u64 {
        if self.setup.switches.off(Rule::ForgetView) { 0 } else { self.log.mark() }
    }

    /// A peer's message: fenced by epoch (W2), then for the role it belongs to.
    fn peer(&mut self, now: Time, from: NodeId, msg: PeerMsg, out: &mut Vec<Action>) {
        if let PeerMsg::Sync { view, .. } = &msg {
            self.adopt(now, view, out);
        }
        let Some(epoch) = self.epoch() else { return };
        let fenced = msg.epoch() != epoch;
        if fenced && !(self.setup.switches.off(Rule::NoFence) && msg.epoch() < epoch) {
            return;
        }
        if is_answer(&msg) {
            return self.answer(now, from, msg, out);
        }
        if let PeerMsg::ReadIndexAck { read, commit, .. } = msg {
            self.reads.indexed(read, commit);
        }
        let (Role::Follower(follower), Some(view)) = (&mut self.role, &self.view) else { return };
        if from != view.coordinator && !fenced {
            return;
        }
        let (setup, log, leases) = (&self.setup, &mut self.log, &mut self.leases);
        let mut ctx = Ctx { now, wall: self.wall, setup, view, log, leases, out };
        if let PeerMsg::ReadIndexAck { commit, .. } = msg {
            follower.learn_commit(&mut ctx, commit);
        } else if let Err(why) = follower.handle(&mut ctx, from, msg) {
            self.stop(why, out);
        }
    }

    /// What followers say to their coordinator.
    fn answer(&mut self, now: Time, from: NodeId, msg: PeerMsg, out: &mut Vec<Action>) {
        let wanted = match &self.role {
            Role::Coordinator(c) => self.reads.want_round_after(c.rounds.confirmed + 1),
            _ => return,
        };
        if let PeerMsg::ReadIndex { read, key, .. } = &msg {
            let (until, read) = (now + self.setup.timing.patience, *read);
            let same =
                |asker: &Asker| matches!(asker, Asker::Member { node, read: r, .. } if *node == from && *r == read);
            let known = self.reads.waiting.iter().any(|w| same(&w.asker));
            if !known && self.reads.waiting.len() < MAX_WAITING {
                let asker = Asker::Member { node: from, read, key: key.as_ref().map(|key| key.0.clone()) };
                self.reads.waiting.push(Waiting { asker, until, need: Need::Leave });
            }
        }
        self.coordinate(now, out, |c, ctx| {
            let Some(follower) = c.followers.get_mut(&from) else { return };
            follower.heard = ctx.now;
            match msg {
                PeerMsg::SyncAck { boot, .. } if follower.identity.is_some_and(|(_, known)| boot < known) => {
                    // A dead process of that server said so; the ECS would refuse an expand that names it for ever.
                }
                PeerMsg::SyncAck { at, commit, further, store, boot, .. } => {
                    follower.identity = Some((store, boot));
                    if commit > ctx.log.end().seq && follower.required() {
                        c.has_lost_entries(ctx, from, commit);
                    } else if further {
                        c.is_behind();
                    } else {
                        c.sync_acked(ctx, from, at);
                    }
                }
                PeerMsg::PutAck { end, .. } => {
                    // Outside a stream it speaks of a position that a walk has made it give up.
                    if follower.streaming && follower.acked(ctx.now, end) {
                        c.flush(ctx, from);
                        c.step(ctx);
                    }
                }
                PeerMsg::PutGap { have, .. } => {
                    // Everything up to `have` arrived; what is on its disk is told by acknowledgements only.
                    if follower.streaming && follower.gap(ctx.now, have) {
                        c.flush(ctx, from);
                    }
                }
                PeerMsg::AuditAck { audit, found, .. } => c.audit_answer(ctx, from, audit, found),
                PeerMsg::ConfirmAck { round, .. } => c.round_acked(ctx, Some((from, round)), wanted),
                msg => c.walk_answer(ctx, from, msg),
            }
        });
    }

    fn on_durable(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(view) = &self.view else { return };
        let (setup, log, leases) = (&self.setup, &mut self.log, &mut self.leases);
        let mut ctx = Ctx { now, wall: self.wall, setup, view, log, leases, out };
        match &mut self.role {
            Role::Coordinator(c) => c.step(&mut ctx),
            Role::Follower(follower) => follower.durable(&mut ctx),
            Role::Outside | Role::Former => {}
        }
    }

    fn write(&mut self, now: Time, write: Write, token: Token, out: &mut Vec<Action>) {
        let refusal = match (&self.role, &self.view) {
            (Role::Coordinator(_), _) => return self.coordinate(now, out, |c, ctx| c.write(ctx, write, token)),
            (Role::Former, _) => RESTARTED,
            (_, None) => NO_VIEW,
            _ => Refusal::NotResponsible,
        };
        out.push(Action::Reply { token, reply: Reply::Refused(refusal) });
    }

    /// The beacons that are due to every follower. Called every L/5 by whoever drives the pulse.
    pub fn beacons(&mut self, now: Time, beacons: &mut Vec<(NodeId, Beacon)>) {
        if self.stopped.is_none() {
            self.coordinate(now, &mut Vec::new(), |c, ctx| c.beacons(ctx, beacons));
        }
    }

    /// A beacon from `from`: renews its lease, and perhaps ours. None: it is not our coordinator at our epoch.
    pub fn beacon(&mut self, now: Time, from: NodeId, beacon: &Beacon, out: &mut Vec<Action>) -> Option<BeaconAck> {
        let view = self.view.as_ref().filter(|v| v.epoch == beacon.epoch && v.coordinator == from)?;
        // Who cannot write what it is sent would be waited for as soon as it counts: a learner does not offer itself (C3).
        let idle = !self.writable && view.part_of(self.setup.me.node, self.setup.me.store) != Part::Member;
        let Role::Follower(follower) = &mut self.role else { return None };
        if self.stopped.is_some() || idle {
            return None;
        }
        let (setup, log, leases) = (&self.setup, &mut self.log, &mut self.leases);
        let ack = follower.beacon(&mut Ctx { now, wall: self.wall, setup, view, log, leases, out }, beacon);
        self.pump_reads(now, out);
        self.schedule(now);
        Some(ack)
    }

    /// The answer to a beacon that was sent at `sent` on our own clock; `answered` is on the answerer's.
    pub fn beacon_ack(
        &mut self,
        now: Time,
        from: NodeId,
        sent: Time,
        answered: Time,
        ack: &BeaconAck,
        out: &mut Vec<Action>,
    ) {
        if self.epoch() != Some(ack.epoch) || self.stopped.is_some() {
            return;
        }
        let mut news = true;
        self.coordinate(now, out, |c, ctx| {
            let Some(follower) = c.followers.get_mut(&from) else { return };
            (follower.heard, follower.answers) = (ctx.now, ctx.now);
            if follower.beacon_acked.is_none_or(|latest| sent >= latest) {
                // The latest answer, not the highest clock: a machine that restarted counts from zero again.
                let counted = if ctx.off(Rule::LateCount) { ctx.now } else { sent };
                (follower.beacon_acked, follower.answered) = (Some(counted), Some(answered));
            }
            let known = follower.synced && ack.end == Some(follower.matched);
            match ack.end {
                Some(end) if follower.synced && follower.streaming && follower.acked(ctx.now, end) => {
                    c.flush(ctx, from);
                }
                // It has restarted within the epoch and lost its session. Nothing may be outstanding that would tell.
                None if follower.synced && follower.walk.is_none() => {
                    follower.close(ctx.now);
                    c.sync(ctx, from);
                }
                _ => {}
            }
            // Most answers say nothing but that the lease goes on, which nobody has waited for.
            news = !known || c.pace() != Pace::Idle;
            if news {
                c.step(ctx);
            }
        });
        if news || !self.reads.waiting.is_empty() {
            self.pump_reads(now, out);
            self.schedule(now);
        }
    }

    /// The ECS orders an unneeded copy away.
    fn drop_copy(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        if self.epoch() != Some(epoch) || self.part() != Part::None || self.log.is_blank() {
            return;
        }
        self.log.record(Change::Drop { epoch }, out);
        let (mark, view) = (self.log.image.mark, self.log.image.view.take());
        self.log.image = SlotImage { mark, view, ..SlotImage::empty() };
        self.log.distrusted = false;
        self.log.reset();
    }

    /// Changes the copy behind the protocol's back, as a failing memory or a wrong hand would. For tests of the repair.
    pub fn damage<R>(&mut self, change: impl FnOnce(&mut SlotMap) -> R) -> R {
        change(&mut self.log.image.map)
    }

    fn stop_if_condemned(&mut self, out: &mut Vec<Action>) {
        let Role::Coordinator(c) = &mut self.role else { return };
        if let Some(why) = c.condemned.take() {
            self.stop(why, out);
        }
    }

    /// Something impossible was seen: better no answer than a wrong one.
    fn stop(&mut self, why: String, out: &mut Vec<Action>) {
        for waiting in std::mem::take(&mut self.reads.waiting) {
            if let Asker::Client { token, .. } = waiting.asker {
                out.push(Action::Reply { token, reply: Reply::Refused(STOPPED) });
            }
        }
        if let Role::Coordinator(c) = std::mem::replace(&mut self.role, Role::Outside) {
            c.retire(Part::None, out);
            self.log.image.map.watch_deadlines(false);
        }
        out.push(Action::Alarm(why.clone()));
        self.stopped = Some(why);
    }
}

const STOPPED: Refusal = Refusal::Unavailable("the slot has stopped here after an alarm: see the server's log");
const NO_VIEW: Refusal = Refusal::Unavailable("this server has not heard from the ECS about this key's slot yet");
const RESTARTED: Refusal = Refusal::Unavailable("the coordinator has just restarted and waits for the ECS");
