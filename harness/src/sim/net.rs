//! The network: delays, losses, repetitions, overtaking, and links that are cut one way or both.
//!
//! Runs differ in kind. In *streams* runs links behave like connections (in order, nothing lost but by a cut); in
//! *datagram* runs every message fares for itself, which is worse than any real connection and finds what hides behind order.

use super::plan::NetPlan;
use super::wire::{Party, Wire};

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It arrives after so many microseconds.
    Arrives(u64),
    /// It never does.
    Lost,
    /// It waits for the link to be mended.
    Held,
}

/// Channels between two parties that do not queue behind each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Channel {
    Data = 0,
    Pulse = 1,
    Control = 2,
    Loose = 3,
}

/// All links.
#[derive(Debug)]
pub(super) struct Net {
    plan: NetPlan,
    /// Servers, then the ECS.
    parties: usize,
    /// How many faults cut the way from one party to another at the moment.
    cuts: Vec<u8>,
    /// How much longer than usual the way from one party to another takes at the moment, in microseconds.
    lags: Vec<u64>,
    /// When the last message of each channel arrives, for order.
    last: Vec<u64>,
    /// Extra loss while a fault makes the network bad, in thousandths.
    pub(super) burst: u32,
    held: Vec<(Party, Party, Wire)>,
}

/// Held messages beyond this are lost, as in a full socket buffer.
const HELD: usize = 2_000;

impl Net {
    pub(super) fn new(plan: NetPlan, servers: usize) -> Net {
        let parties = servers + 1;
        Net {
            plan,
            parties,
            cuts: vec![0; parties * parties],
            lags: vec![0; parties * parties],
            last: vec![0; parties * parties * 4],
            burst: 0,
            held: Vec::new(),
        }
    }

    fn index(&self, from: Party, to: Party) -> Option<usize> {
        let at = |party| match party {
            Party::Server(i) => Some(i),
            Party::Ecs => Some(self.parties - 1),
            Party::Client(_) => None,
        };
        Some(at(from)? * self.parties + at(to)?)
    }

    pub(super) fn is_cut(&self, from: Party, to: Party) -> bool {
        self.index(from, to).is_some_and(|i| self.cuts[i] > 0)
    }

    /// Whether nothing is cut and no more is lost than usual.
    pub(super) fn is_whole(&self) -> bool {
        self.burst == 0 && self.cuts.iter().all(|cuts| *cuts == 0) && self.lags.iter().all(|lag| *lag == 0)
    }

    pub(super) fn cut(&mut self, from: Party, to: Party) {
        if let Some(i) = self.index(from, to) {
            self.cuts[i] += 1;
        }
    }

    pub(super) fn mend(&mut self, from: Party, to: Party) {
        if let Some(i) = self.index(from, to) {
            self.cuts[i] = self.cuts[i].saturating_sub(1);
        }
    }

    /// Makes a way slow, or (with 0) as it was.
    pub(super) fn lag(&mut self, from: Party, to: Party, by: u64) {
        if let Some(i) = self.index(from, to) {
            self.lags[i] = by;
        }
    }

    /// Ends all cuts and losses for good.
    pub(super) fn heal(&mut self) {
        self.cuts.fill(0);
        self.lags.fill(0);
        self.burst = 0;
        self.plan.loss = 0;
        self.plan.repeat = 0;
        self.plan.stall = 0;
    }

    /// Messages whose way is free again.
    pub(super) fn released(&mut self) -> Vec<(Party, Party, Wire)> {
        let held = std::mem::take(&mut self.held);
        let (free, still): (Vec<_>, Vec<_>) = held.into_iter().partition(|(from, to, _)| !self.is_cut(*from, *to));
        self.held = still;
        free
    }

    pub(super) fn hold(&mut self, from: Party, to: Party, wire: Wire) {
        if self.held.len() < HELD {
            self.held.push((from, to, wire));
        }
    }

    /// Decides about one message that is sent now.
    pub(super) fn fate(&mut self, now: u64, from: Party, to: Party, wire: &Wire, rng: &mut fastrand::Rng) -> Fate {
        let channel = match wire {
            Wire::Peer { .. } => Channel::Data,
            Wire::Pulse { .. } => Channel::Pulse,
            Wire::ToEcs { .. } | Wire::FromEcs { .. } => Channel::Control,
            Wire::Heartbeat(_)
            | Wire::Bytes { .. }
            | Wire::Question { .. }
            | Wire::Answer { .. }
            | Wire::Job { .. }
            | Wire::Came { .. } => Channel::Loose,
        };
        if self.is_cut(from, to) {
            let hold = self.plan.hold && matches!(channel, Channel::Data | Channel::Pulse);
            return if hold { Fate::Held } else { Fate::Lost };
        }
        let loss = if channel == Channel::Control { self.plan.loss / 8 } else { self.plan.loss } + self.burst;
        if rng.u32(0..1000) < loss {
            return Fate::Lost;
        }
        let lag = self.index(from, to).map_or(0, |i| self.lags[i]);
        let at = now + lag + self.delay(rng);
        let ordered = channel == Channel::Control || (self.plan.ordered && channel != Channel::Loose);
        match self.index(from, to) {
            Some(i) if ordered => {
                let last = &mut self.last[i * 4 + channel as usize];
                *last = at.max(*last + 1);
                Fate::Arrives(*last)
            }
            _ => Fate::Arrives(at),
        }
    }

    /// Whether a data or pulse message arrives twice.
    pub(super) fn repeats(&self, wire: &Wire, rng: &mut fastrand::Rng) -> bool {
        self.plan.repeat > 0
            && matches!(wire, Wire::Peer { .. } | Wire::Pulse { .. } | Wire::Heartbeat(_))
            && rng.u32(0..1000) < self.plan.repeat
    }

    pub(super) fn delay(&self, rng: &mut fastrand::Rng) -> u64 {
        if self.plan.stall > 0 && rng.u32(0..1000) < self.plan.stall {
            return rng.u64(5_000..400_000);
        }
        rng.u64(self.plan.fastest..self.plan.slowest)
    }
}
