//! What a seed's run is like: every seed draws its own mix, so that rare combinations get a run to themselves.

use common::Rule;

use super::aim;
use super::ambush::Ambush;
use super::faults::Kind;

/// How the network behaves apart from faults.
#[derive(Clone, Copy, Debug)]
pub struct NetPlan {
    /// Connections keep their order.
    pub ordered: bool,
    /// A cut link keeps what was sent, and delivers it late.
    pub hold: bool,
    /// Lost messages, in thousandths.
    pub loss: u32,
    /// Repeated messages, in thousandths.
    pub repeat: u32,
    /// Messages delayed by up to 400 ms, in thousandths.
    pub stall: u32,
    /// The least delay in microseconds,
    pub fastest: u64,
    /// and the greatest.
    pub slowest: u64,
}

/// One seed's mix.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Machines, of which some may only join later.
    pub servers: usize,
    /// Machines that run from the start.
    pub starters: usize,
    /// Slots of the ring.
    pub slots: u16,
    /// L in milliseconds. The ECS's patience does not follow it, so a long one makes failovers outrun leases.
    pub lease_ms: u32,
    /// Arcs per server.
    pub vnodes: u16,
    /// Clients.
    pub clients: usize,
    /// Keys.
    pub keys: u32,
    /// The longest pause of a client between operations, in microseconds.
    pub think: u64,
    /// How many of 100 clients do without the product's router.
    pub strays: u32,
    /// In how many of 100 requests such a client asks a random server.
    pub stray: u32,
    /// How long from one checkpoint to the next, in microseconds.
    pub checkpoints: std::ops::Range<u64>,
    /// Every member is asked before a read is answered (R3).
    pub confirm_reads: bool,
    /// How long faults go on at least, in microseconds.
    pub trouble: u64,
    /// The mean time between faults, in microseconds.
    pub pace: u64,
    /// The faults of this run, by weight.
    pub faults: Vec<(Kind, u32)>,
    /// How long coordinators wait between comparing copies, in microseconds; 0: they never do, until a copy is damaged.
    pub audits: u64,
    /// From one server to all and back, under load.
    pub tour: bool,
    /// Somebody asks about the cluster as a whole now and then.
    pub curious: bool,
    /// Keys beside the others that are written once and never read before the end.
    pub cold: u32,
    /// What is waited for.
    pub ambushes: Vec<Ambush>,
    /// Every clock runs as fast or as slowly as is allowed.
    pub extreme_clocks: bool,
    /// How long asks to the ECS wait for others to go with, in microseconds.
    pub gather: u64,
    /// How many of 100 clients speak Redis's protocol.
    pub redis: u32,
    /// How wrong wall clocks are, and how often one is set: the mean pause in microseconds; 0: never.
    pub walls: u64,
    /// How long a client waits for an answer, in microseconds.
    pub patience: std::ops::Range<u64>,
    /// The network.
    pub net: NetPlan,
}

impl Plan {
    /// Draws a mix; with `aim`, one that is likely to show the absence of that rule.
    #[must_use]
    pub fn draw(rng: &mut fastrand::Rng, aim: Option<Rule>, tour: bool) -> Plan {
        let mut plan = Plan::any(rng, tour);
        if let Some(rule) = aim {
            aim::at(&mut plan, rule, rng);
        }
        plan
    }

    /// What came later, of draws of its own.
    pub fn more(&mut self, rng: &mut fastrand::Rng, aim: Option<Rule>) {
        let wanted = aim.is_some_and(aim::needs_redis);
        if !wanted && (aim.is_some() || rng.bool()) {
            return;
        }
        self.redis = if wanted { 100 } else { rng.u32(20..80) };
        self.walls = if wanted || rng.bool() { rng.u64(200_000..3_000_000) } else { 0 };
        // A key with a deadline comes and goes uncounted.
        self.curious = false;
    }

    fn any(rng: &mut fastrand::Rng, tour: bool) -> Plan {
        let servers = rng.usize(3..=5);
        let starters = rng.usize(1..=servers).max(if rng.u8(0..4) == 0 { 1 } else { 3 });
        let ordered = rng.bool();
        let rough = if ordered { 0 } else { rng.u32(0..30) };
        let fastest = rng.u64(20..200);
        let mut faults = Kind::draw(rng);
        if starters < servers && faults.iter().all(|(kind, _)| *kind != Kind::Join) {
            faults.push((Kind::Join, 10));
        }
        if rng.u8(0..25) == 0 {
            faults.push((Kind::LongPause, 30));
        }
        let many_slots = rng.u8(0..40) == 0;
        let tour = rng.u8(0..20) == 0 || tour;
        let starters = if tour { 1 } else { starters };
        let ambushes = if rng.u8(0..3) == 0 { rng.usize(1..4) } else { 0 };
        Plan {
            servers: if tour { 5 } else { servers },
            starters,
            tour,
            curious: rng.u8(0..4) == 0,
            slots: 1
                << if tour {
                    rng.u16(3..=4)
                } else if many_slots {
                    rng.u16(4..=8)
                } else {
                    rng.u16(1..=3)
                },
            lease_ms: [250, 250, 250, 250, 100, 1000][rng.usize(0..6)],
            vnodes: if rng.u8(0..4) == 0 { 2 } else { 1 },
            clients: if tour { 5 } else { rng.usize(3..=5) },
            keys: if many_slots { rng.u32(20..=40) } else { rng.u32(3..=10) },
            think: rng.u64(40_000..160_000),
            strays: rng.u32(20..60),
            stray: rng.u32(5..40),
            checkpoints: match rng.u8(0..4) {
                0 => 60_000_000..120_000_000,
                1 => 50_000..800_000,
                _ => 300_000..3_000_000,
            },
            confirm_reads: rng.u8(0..6) == 0,
            trouble: rng.u64(6_000_000..12_000_000),
            pace: rng.u64(150_000..600_000),
            faults,
            audits: if rng.u8(0..4) == 0 { rng.u64(500_000..3_000_000) } else { 0 },
            cold: 4,
            ambushes: (0..ambushes).map(|_| Ambush::draw(rng)).collect(),
            extreme_clocks: rng.u8(0..8) == 0,
            gather: 2_000,
            redis: 0,
            walls: 0,
            patience: 250_000..2_500_000,
            net: NetPlan {
                ordered,
                hold: rng.u8(0..3) == 0,
                loss: rough,
                repeat: if ordered { 0 } else { rng.u32(0..30) },
                stall: if rng.u8(0..3) == 0 { rng.u32(0..20) } else { 0 },
                fastest,
                slowest: fastest + rng.u64(100..3_000),
            },
        }
    }
}
