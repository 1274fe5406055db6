//! What goes wrong, when, and how it is mended.

use super::disk::Mood;
use super::queue::Event;
use super::wire::Party;
use super::world::World;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// kill -9 of one server.
    Kill,
    /// Power cut at one server.
    PowerCut,
    /// Power cut at two servers at once.
    PowerCutTwo,
    /// Power cut everywhere, the ECS included now and then.
    PowerCutAll,
    /// SIGSTOP of a server, SIGCONT later.
    Pause,
    /// SIGSTOP of the ECS.
    PauseEcs,
    /// Slow fsyncs.
    SlowDisk,
    /// fsyncs that do not return.
    StuckDisk,
    /// A full disk.
    FullDisk,
    /// The ECS dies and comes back.
    EcsDown,
    /// A server comes back with an empty directory.
    Wipe,
    /// A machine that was not there before joins.
    Join,
    /// One direction between two parties is cut.
    CutOneWay,
    /// Two servers do not reach each other.
    CutPair,
    /// A server and the ECS do not reach each other.
    CutEcs,
    /// One server reaches nobody.
    Isolate,
    /// The servers fall into two parts.
    Halves,
    /// A link goes up and down.
    Flap,
    /// Many messages are lost for a while.
    Loss,
    /// An orderly stop, and a start.
    Restart,
    /// SIGSTOP of a server for longer than every timeout there is.
    LongPause,
    /// One direction between two parties becomes slow.
    Lag,
    /// Clients accuse a server that is well.
    Accuse,
    /// Two machines that were not there before join at once.
    JoinTwo,
    /// A copy is damaged behind the protocol's back.
    Rot,
    /// A server comes back with a flipped bit or garbage in its directory.
    Damage,
    /// An fsync fails: the process stops, with or without what was not synced.
    FsyncFails,
    /// A server dies between two actions of one step.
    Midway,
    /// A server is told to leave.
    Leave,
    /// A server is sent away through another, whether it runs or not.
    SendAway,
    /// Slots are evened out.
    Rebalance,
    /// A change of membership is called off, or looked at.
    Word,
    /// A copy of a running server's directory is started on another machine.
    CopyDirectory,
    /// A server comes back with its directory as it was some time ago.
    RollBack,
    /// Two stopped servers come back at each other's addresses.
    Swap,
    /// The ECS comes back with an older copy of its directory; the newest is put back later.
    OldState,
    /// A server comes back without the last entries it had fsynced.
    Amnesia,
}

impl Kind {
    const ALL: [(Kind, u32); 36] = [
        (Kind::Kill, 12),
        (Kind::PowerCut, 8),
        (Kind::PowerCutTwo, 3),
        (Kind::PowerCutAll, 2),
        (Kind::Pause, 10),
        (Kind::PauseEcs, 3),
        (Kind::SlowDisk, 6),
        (Kind::StuckDisk, 3),
        (Kind::FullDisk, 3),
        (Kind::EcsDown, 6),
        (Kind::Wipe, 2),
        (Kind::Join, 6),
        (Kind::CutOneWay, 10),
        (Kind::CutPair, 8),
        (Kind::CutEcs, 6),
        (Kind::Isolate, 6),
        (Kind::Halves, 4),
        (Kind::Flap, 4),
        (Kind::Loss, 4),
        (Kind::Restart, 5),
        (Kind::Lag, 6),
        (Kind::Accuse, 4),
        (Kind::JoinTwo, 2),
        (Kind::Rot, 4),
        (Kind::Damage, 4),
        (Kind::FsyncFails, 4),
        (Kind::Midway, 8),
        (Kind::Leave, 4),
        (Kind::SendAway, 4),
        (Kind::Rebalance, 4),
        (Kind::Word, 3),
        (Kind::CopyDirectory, 4),
        (Kind::RollBack, 3),
        (Kind::Swap, 2),
        (Kind::OldState, 3),
        (Kind::Amnesia, 4),
    ];

    /// A run's own mix: some kinds not at all, some far more often than usual.
    #[must_use]
    pub fn draw(rng: &mut fastrand::Rng) -> Vec<(Kind, u32)> {
        loop {
            let weigh = |(kind, weight): (Kind, u32), rng: &mut fastrand::Rng| match rng.u8(0..10) {
                0..4 => (kind, 0),
                4..9 => (kind, weight),
                _ => (kind, weight * 8),
            };
            let mix: Vec<_> = Self::ALL.into_iter().map(|each| weigh(each, rng)).filter(|(_, w)| *w > 0).collect();
            if mix.len() >= 4 {
                return mix;
            }
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "fault: kill -9",
            Kind::PowerCut => "fault: power cut",
            Kind::PowerCutTwo => "fault: power cut of two",
            Kind::PowerCutAll => "fault: power cut of all",
            Kind::Pause => "fault: pause",
            Kind::PauseEcs => "fault: pause of the ECS",
            Kind::SlowDisk => "fault: slow disk",
            Kind::StuckDisk => "fault: stuck disk",
            Kind::FullDisk => "fault: full disk",
            Kind::EcsDown => "fault: ECS down",
            Kind::Wipe => "fault: wiped directory",
            Kind::Join => "fault: join",
            Kind::CutOneWay => "fault: one way cut",
            Kind::CutPair => "fault: pair cut",
            Kind::CutEcs => "fault: cut from the ECS",
            Kind::Isolate => "fault: isolated",
            Kind::Halves => "fault: halves",
            Kind::Flap => "fault: flapping link",
            Kind::Loss => "fault: heavy loss",
            Kind::Restart => "fault: orderly restart",
            Kind::LongPause => "fault: pause of 30 s",
            Kind::Lag => "fault: slow link",
            Kind::Accuse => "fault: false accusations",
            Kind::JoinTwo => "fault: two joins at once",
            Kind::Rot => "fault: damaged copy",
            Kind::Damage => "fault: damaged directory",
            Kind::FsyncFails => "fault: failed fsync",
            Kind::Midway => "fault: death in mid-step",
            Kind::Leave => "fault: told to leave",
            Kind::SendAway => "fault: sent away",
            Kind::Rebalance => "fault: rebalancing",
            Kind::Word => "fault: a change called off",
            Kind::CopyDirectory => "fault: copied directory",
            Kind::RollBack => "fault: rolled-back directory",
            Kind::Swap => "fault: swapped addresses",
            Kind::OldState => "fault: old ECS directory",
            Kind::Amnesia => "fault: a disk that lied",
        }
    }
}

/// What a long run must have exercised, by the names it is counted under.
#[must_use]
pub fn must_happen() -> Vec<&'static str> {
    let later = [Kind::LongPause.name(), "fault: wall clock set", "fault: foreign directory"];
    let kinds = Kind::ALL.into_iter().map(|(kind, _)| kind.name()).chain(later);
    kinds.chain(super::ambush::Trap::ALL.map(super::ambush::Trap::name)).collect()
}

/// A step of a fault.
#[derive(Clone, Debug)]
pub(super) enum FaultEvent {
    /// The next fault is due.
    Next,
    /// These ways are free again.
    Mend(Vec<(Party, Party)>),
    /// A link changes state, so many times more.
    Flap(usize, usize, u32, bool),
    /// A slow way is as it was.
    LagEnds(Party, Party),
    /// The disk is well again.
    DiskWell(usize),
    /// Messages are no longer lost in numbers.
    LossEnds,
    /// This kind waits for a moment at which all is well.
    Lull(Kind),
    /// The newest copy of the ECS's directory is put back.
    NewestState,
    /// The faults end and everything is mended.
    Heal,
}

/// How long it is waited for a moment at which all is well, in microseconds.
const LULL: u64 = 3_000_000;

impl World {
    pub(super) fn fault(&mut self, event: FaultEvent) {
        match event {
            FaultEvent::Heal => self.heal(),
            _ if self.healed => {}
            FaultEvent::Next => {
                if !self.enough() && self.now >= self.calm_until.max(self.lull_until) {
                    self.next_fault();
                }
                let pause = self.rng.u64(self.plan.pace / 3..self.plan.pace * 5 / 3);
                self.queue.at(self.now + pause, Event::Fault(FaultEvent::Next));
            }
            FaultEvent::Mend(ways) => self.mend(&ways),
            FaultEvent::Flap(a, b, left, cut) => self.flap(a, b, left, cut),
            FaultEvent::LagEnds(from, to) => self.net.lag(from, to, 0),
            FaultEvent::DiskWell(s) => self.disk(s, Mood::Well),
            FaultEvent::Lull(kind) if self.now < self.calm_until => match self.in_a_lull(kind) {
                true => self.happened(kind),
                false => self.later(20_000..100_000, FaultEvent::Lull(kind)),
            },
            FaultEvent::Lull(_) => {}
            FaultEvent::NewestState => self.newest_state(),
            FaultEvent::LossEnds => self.net.burst = 0,
        }
    }

    /// Whoever has had enough faults but not yet enough operations is left alone to do them.
    pub(super) fn enough(&self) -> bool {
        self.now >= self.plan.trouble && self.stats.faults >= super::world::LEAST_FAULTS
    }

    fn next_fault(&mut self) {
        let total: u32 = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.u32(0..total.max(1));
        let mut chosen = None;
        for (kind, weight) in &self.plan.faults {
            if at < *weight {
                chosen = Some(*kind);
                break;
            }
            at -= weight;
        }
        if let Some(kind) = chosen
            && self.inject(kind)
        {
            self.happened(kind);
        }
    }

    fn happened(&mut self, kind: Kind) {
        self.trace.line(self.now, || format!("-------- {}", kind.name()));
        self.stats.bump(kind.name());
        self.stats.faults += 1;
    }

    /// A server that runs, preferably one that coordinates something.
    fn victim(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].awake()).collect();
        (!up.is_empty()).then(|| up[self.rng.usize(..up.len())])
    }

    /// Makes the fault happen; false if it cannot at the moment.
    fn inject(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::PowerCutTwo => return self.power_cut(2),
            Kind::PowerCutAll => return self.power_cut(self.servers.len()),
            Kind::PauseEcs => return self.pause_ecs(),
            Kind::EcsDown => return self.ecs_down(),
            Kind::Join => return self.join(),
            Kind::JoinTwo => return self.join() && self.join(),
            Kind::Rot | Kind::Amnesia | Kind::OldState | Kind::CopyDirectory => return self.in_a_lull(kind),
            Kind::Loss => {
                self.net.burst = self.rng.u32(100..500);
                self.later(50_000..1_500_000, FaultEvent::LossEnds);
                return true;
            }
            _ => {}
        }
        let Some(s) = self.victim() else { return false };
        self.trace.line(self.now, || format!("-------- s{s}:"));
        match kind {
            Kind::Kill => self.crash(s, false),
            Kind::PowerCut => self.crash(s, true),
            Kind::Pause => self.pause(s),
            Kind::LongPause => return self.long_pause(s),
            Kind::Accuse => self.accuse(s),
            Kind::Lag => self.lag(s),
            Kind::SlowDisk => self.disk(s, Mood::Slow),
            Kind::StuckDisk => self.disk(s, Mood::Stuck),
            Kind::FullDisk => self.disk(s, Mood::Full),
            Kind::Wipe => return self.wipe(s),
            Kind::Damage => self.damage_directory(s),
            Kind::FsyncFails => {
                let power = self.rng.bool();
                self.crash(s, power);
            }
            Kind::Midway => self.servers[s].fuse = Some(self.rng.u32(1..40)),
            Kind::Restart => self.restart(s),
            Kind::RollBack => return self.roll_back(s),
            Kind::Swap => return self.swap_addresses(s),
            Kind::Leave => return self.order_leave(s),
            Kind::SendAway => return self.order_removal(s),
            Kind::Rebalance => self.order(s, "rebalance"),
            Kind::Word => self.order_word(s),
            _ => return self.cut(kind, s),
        }
        true
    }

    /// What the product can only answer for while everything else is well; if it is not, no more faults come until it is.
    fn in_a_lull(&mut self, kind: Kind) -> bool {
        if kind == Kind::CopyDirectory && self.free_machine().is_none() {
            return false;
        }
        let done = match kind {
            Kind::Rot => self.rot(),
            Kind::Amnesia => self.forget(),
            Kind::OldState => self.old_state(),
            _ => self.copy_directory(),
        };
        if done {
            self.lull_until = self.now;
        } else if self.now >= self.lull_until {
            self.lull_until = self.now + LULL;
            self.later(20_000..100_000, FaultEvent::Lull(kind));
        }
        done
    }

    pub(super) fn later(&mut self, within: std::ops::Range<u64>, event: FaultEvent) {
        let at = self.now + self.rng.u64(within);
        self.queue.at(at, Event::Fault(event));
    }

    /// How long something stays bad: mostly short, sometimes long enough for every timeout there is.
    pub(super) fn spell(&mut self) -> std::ops::Range<u64> {
        match self.rng.u8(0..10) {
            0..4 => 20_000..300_000,
            4..8 => 300_000..1_500_000,
            _ => 1_500_000..6_000_000,
        }
    }

    pub(super) fn crash(&mut self, s: usize, power: bool) {
        self.stop_server(s, power);
        let spell = self.spell();
        self.start_later(s, spell);
    }

    pub(super) fn start_later(&mut self, s: usize, within: std::ops::Range<u64>) {
        if !self.servers[s].starting {
            self.servers[s].starting = true;
            let at = self.now + self.rng.u64(within);
            self.queue.at(at, Event::Start { server: s });
        }
    }

    fn restart(&mut self, s: usize) {
        if self.rng.bool() {
            return self.step_down(s);
        }
        self.to_ecs(s, common::control::FromServer::Goodbye);
        self.crash(s, false);
    }

    fn power_cut(&mut self, many: usize) -> bool {
        let mut up: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].process.is_some()).collect();
        self.rng.shuffle(&mut up);
        for s in up.iter().take(many) {
            self.crash(*s, true);
        }
        if many > 2 && self.rng.bool() {
            self.ecs_crash(true);
        }
        !up.is_empty()
    }

    /// Once in a run, and the run goes on until it is over.
    fn long_pause(&mut self, s: usize) -> bool {
        self.plan.faults.retain(|(kind, _)| *kind != Kind::LongPause);
        self.servers[s].paused = true;
        let at = self.now + 30_000_000;
        self.plan.trouble = self.plan.trouble.max(at + 500_000);
        self.queue.at(at, Event::Resume { party: Party::Server(s) });
        true
    }

    fn accuse(&mut self, s: usize) {
        for _ in 0..self.rng.u32(1..200) {
            let at = self.now + self.rng.u64(0..2_000_000);
            self.queue.at(at, Event::Accuse { server: s });
        }
    }

    fn lag(&mut self, s: usize) {
        let other = self.rng.usize(0..=self.servers.len());
        let other = if other == s || other == self.servers.len() { Party::Ecs } else { Party::Server(other) };
        let (from, to) = if self.rng.bool() { (Party::Server(s), other) } else { (other, Party::Server(s)) };
        let by = self.rng.u64(5_000..1_200_000);
        self.net.lag(from, to, by);
        let spell = self.spell();
        self.later(spell, FaultEvent::LagEnds(from, to));
    }

    pub(super) fn pause(&mut self, s: usize) {
        self.servers[s].paused = true;
        let spell = self.spell();
        let at = self.now + self.rng.u64(spell);
        self.queue.at(at, Event::Resume { party: Party::Server(s) });
    }

    fn pause_ecs(&mut self) -> bool {
        if !self.ecs.awake() {
            return false;
        }
        self.ecs.paused = true;
        let spell = self.spell();
        let at = self.now + self.rng.u64(spell);
        self.queue.at(at, Event::Resume { party: Party::Ecs });
        true
    }

    fn ecs_down(&mut self) -> bool {
        if self.ecs.process.is_none() {
            return false;
        }
        let power = self.rng.bool();
        self.ecs_crash(power);
        true
    }

    pub(super) fn ecs_crash(&mut self, power: bool) {
        if self.ecs.process.is_some() {
            self.stop_ecs(power);
            let spell = self.spell();
            let at = self.now + self.rng.u64(spell);
            self.queue.at(at, Event::EcsStart);
        }
    }

    /// The machine dies and comes back without its directory, as a new node; see [`World::expendable`].
    fn wipe(&mut self, s: usize) -> bool {
        self.stop_server(s, true);
        self.servers[s].wipe = true;
        self.start_later(s, 800_000..4_000_000);
        true
    }

    /// The machine dies and comes back with damage on its disk.
    fn damage_directory(&mut self, s: usize) {
        let power = self.rng.bool();
        self.stop_server(s, power);
        self.servers[s].rot = true;
        // Back before anybody has missed it, or long after.
        let away = if self.rng.bool() { 5_000..60_000 } else { 800_000..4_000_000 };
        self.start_later(s, away);
    }

    fn join(&mut self) -> bool {
        let free = |s: &usize| !self.servers[*s].used && !self.servers[*s].starting;
        let Some(s) = (0..self.servers.len()).find(free) else {
            let Some(s) = (0..self.servers.len()).find(|s| self.servers[*s].gone.is_some()) else { return false };
            self.come_back(s);
            return true;
        };
        self.start_later(s, 100..10_000);
        true
    }

    pub(super) fn disk(&mut self, s: usize, mood: Mood) {
        let before = std::mem::replace(&mut self.servers[s].mood, mood);
        if before == mood {
            return;
        }
        let slots = self.record.slots;
        for (then, writable) in [(before, true), (mood, false)] {
            if then == Mood::Full {
                for slot in 0..slots {
                    self.handle(s, common::Slot(slot), kvserver::replica::Event::Disk { writable });
                }
            }
        }
        if mood == Mood::Well {
            let inc = self.servers[s].inc;
            if let Some(sync) = self.servers[s].process.as_ref().and_then(|process| process.writes.sync) {
                self.queue.at(self.now + 500, Event::Synced { server: s, inc, number: sync.number });
            }
            self.start_sync(s);
        } else {
            let spell = self.spell();
            self.later(spell, FaultEvent::DiskWell(s));
        }
    }

    // ---- links ----

    fn cut(&mut self, kind: Kind, s: usize) -> bool {
        let (me, count) = (Party::Server(s), self.servers.len());
        let others: Vec<Party> = (0..count).filter(|o| *o != s).map(Party::Server).collect();
        let other = others[self.rng.usize(..others.len())];
        let both = |a: Party, b: Party| [(a, b), (b, a)];
        let ways: Vec<(Party, Party)> = match kind {
            Kind::CutOneWay => {
                let other = if self.rng.u8(0..4) == 0 { Party::Ecs } else { other };
                if self.rng.bool() { vec![(me, other)] } else { vec![(other, me)] }
            }
            Kind::CutPair => both(me, other).to_vec(),
            Kind::CutEcs => both(me, Party::Ecs).to_vec(),
            Kind::Isolate => others.iter().chain([&Party::Ecs]).flat_map(|o| both(me, *o)).collect(),
            Kind::Halves => self.halves(),
            Kind::Flap => {
                let Party::Server(o) = other else { return false };
                let times = self.rng.u32(3..12);
                self.flap(s, o, times, true);
                return true;
            }
            _ => return false,
        };
        for (from, to) in &ways {
            self.net.cut(*from, *to);
        }
        self.trace.line(self.now, || format!("-------- cut: {ways:?}"));
        let spell = self.spell();
        self.later(spell, FaultEvent::Mend(ways));
        true
    }

    fn halves(&mut self) -> Vec<(Party, Party)> {
        let mut parties: Vec<Party> = (0..self.servers.len()).map(Party::Server).chain([Party::Ecs]).collect();
        self.rng.shuffle(&mut parties);
        let at = self.rng.usize(1..parties.len());
        let (left, right) = parties.split_at(at);
        left.iter().flat_map(|a| right.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect()
    }

    fn flap(&mut self, a: usize, b: usize, left: u32, cut: bool) {
        let ways = [(Party::Server(a), Party::Server(b)), (Party::Server(b), Party::Server(a))];
        if cut {
            ways.iter().for_each(|(from, to)| self.net.cut(*from, *to));
        } else {
            self.mend(&ways);
        }
        if left > 0 || cut {
            self.later(100_000..1_200_000, FaultEvent::Flap(a, b, left.saturating_sub(1), !cut));
        }
    }

    fn mend(&mut self, ways: &[(Party, Party)]) {
        for (from, to) in ways {
            self.net.mend(*from, *to);
            if let (Party::Server(a), Party::Server(b)) = (*from, *to) {
                let at = self.now + self.rng.u64(1_000..100_000);
                self.queue.at(at, Event::LinkUp { server: a, peer: b });
            }
        }
        self.release_held();
    }

    /// Everything is mended, for good.
    fn heal(&mut self) {
        self.trace.line(self.now, || "======== everything is mended".to_string());
        self.healed = true;
        self.newest_state();
        self.net.heal();
        self.release_held();
        for s in 0..self.servers.len() {
            self.servers[s].fuse = None;
            self.disk(s, Mood::Well);
            // Whoever is about to stop does it now, so that nobody does once all is whole.
            if self.servers[s].process.as_ref().is_some_and(|process| process.stopping) {
                self.stop_in_order(s);
            }
            if self.servers[s].paused {
                self.resume(Party::Server(s));
            }
            let expected = self.servers[s].used && self.servers[s].gone.is_none();
            if expected && self.servers[s].process.is_none() {
                self.start_later(s, 1_000..200_000);
            }
            for peer in (0..self.servers.len()).filter(|peer| *peer != s) {
                self.queue.at(self.now + 10_000, Event::LinkUp { server: s, peer });
            }
        }
        if self.ecs.paused {
            self.resume(Party::Ecs);
        }
        if self.ecs.process.is_none() {
            self.queue.at(self.now + 50_000, Event::EcsStart);
        }
    }
}
