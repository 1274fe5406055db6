//! Who is alive, judged from three signals, none of which safety depends on.
//!
//! A server is *suspected* when it is not heard for a while, when its control connection closes, or when others say
//! something that cannot be. A suspicion only leads to a probe of the server itself; a verdict needs the probe to fail
//! and nothing to have been heard since. Every step is kept as an [`Incident`] for the operator's timeline.
//!
//! What it does not do: change anything. Verdicts go to the core, which makes them durable.
//!
//! An ECS that hears nobody is more likely cut off than surrounded by dead servers: then silence is no evidence, only a
//! refused connection is. When it hears somebody again the others get the grace period before they are judged.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::control::Heartbeat;
use common::{BootId, NodeId, Time};
use serde::Serialize;

use crate::core::{Config, Conn, Probed};

/// How many incidents are kept; older ones are forgotten first.
pub const TIMELINE: usize = 256;
/// Accusations lead to one probe of a server in this time, however many there are.
pub const ACCUSATION_PAUSE: Duration = Duration::from_secs(1);
/// How long after a probe's end its result is waited for: the shell reports every probe, but a lost one must not hang.
const PROBE_MARGIN: Duration = Duration::from_millis(200);
/// A server that was heard within this time heartbeats well.
const WELL: Duration = Duration::from_millis(300);
/// Downs within this time count as flapping.
const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// How long a server may take from saying that it will stop to stopping; then it counts as staying.
const DRAINING: Duration = Duration::from_secs(20);
/// The longest that a flapping server waits before it gets copies again.
const FLAP_MAX: Duration = Duration::from_secs(30);

/// Something the operator may want to know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Incident {
    /// When, on the ECS's clock.
    pub at: Time,
    /// About whom.
    pub node: NodeId,
    /// What was seen or decided, with the evidence.
    pub what: String,
}

/// What the detector wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Probe this server.
    Probe(NodeId),
    /// This server is down.
    Down(NodeId),
}

/// Whether the process that last registered runs, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runs {
    /// It is connected, or answers probes.
    Yes,
    /// It was heard not long ago, or this ECS has just started.
    Perhaps,
    /// It was judged down, or is not to be found.
    No,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// Known from an earlier run of the ECS, not heard yet.
    Awaited,
    /// Connected and heard.
    Alive,
    /// Being probed.
    Suspect { why: String, probe: Time },
    /// The process lives, but has no control connection.
    Detached { since: Time, probe_at: Time },
    /// Judged.
    Down { since: Time },
}

#[derive(Clone, Debug)]
struct Watch {
    boot: BootId,
    conn: Option<Conn>,
    heard: Time,
    beat: Option<Time>,
    /// Since when it has been continuously present and fit.
    present: Time,
    stage: Stage,
    stalled: bool,
    /// Until when it counts as about to stop, if it has said so.
    draining: Option<Time>,
    /// Whether it was told that it may.
    relieved: bool,
    accused: Option<Time>,
    hint: Option<Time>,
    downs: Vec<Time>,
    admitted: Time,
}

/// See the module's head.
#[derive(Debug)]
pub struct Detector {
    config: Config,
    watches: BTreeMap<NodeId, Watch>,
    timeline: VecDeque<Incident>,
    /// How many of the newest incidents have not been taken by [`Detector::news`].
    unread: usize,
    /// Until when silence is no evidence.
    grace: Time,
}

impl Detector {
    /// A detector that awaits the servers known from before; `down` are those already judged.
    #[must_use]
    pub fn new(config: Config, known: impl IntoIterator<Item = (NodeId, BootId, bool)>, now: Time) -> Detector {
        let watch = |(node, boot, down)| {
            let stage = if down { Stage::Down { since: now } } else { Stage::Awaited };
            (node, Watch::new(boot, stage, now))
        };
        let watches: BTreeMap<NodeId, Watch> = known.into_iter().map(watch).collect();
        let grace = if watches.is_empty() { now } else { now + config.grace };
        Detector { grace, config, watches, timeline: VecDeque::new(), unread: 0 }
    }

    /// A control connection was accepted.
    pub fn registered(&mut self, node: NodeId, boot: BootId, conn: Conn, now: Time) {
        let alone = !self.anybody();
        let known = self.watches.get(&node).map(|watch| watch.stage.name());
        let watch = self.watches.entry(node).or_insert_with(|| Watch::new(boot, Stage::Awaited, now));
        watch.registered(boot, conn, now);
        let admitted = watch.admitted;
        self.note(now, node, format!("registered with boot {boot}, was {}", known.unwrap_or("unknown")));
        if admitted > now {
            self.note(now, node, format!("was down repeatedly: gets copies again in {:?}", admitted.since(now)));
        }
        if self.watches.values().all(|watch| watch.stage == Stage::Alive) {
            self.grace = now;
        } else if alone {
            self.grace = self.grace.max(now + self.config.grace);
        }
    }

    /// A heartbeat came in. Those of processes that were replaced or judged are not heard.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Time) {
        let Some(watch) = self.watches.get_mut(&beat.node) else { return };
        if watch.boot != beat.boot || watch.is_down() {
            return;
        }
        watch.beat = Some(now);
        let stalled = std::mem::replace(&mut watch.stalled, beat.disk_stalled);
        if beat.disk_stalled {
            watch.present = now;
        }
        if stalled != beat.disk_stalled {
            let what =
                if beat.disk_stalled { "says that its disk is stalled" } else { "says that its disk works again" };
            self.note(now, beat.node, what.to_string());
        }
        self.heard(beat.node, now);
    }

    /// Something came in over the server's control connection.
    pub fn heard(&mut self, node: NodeId, now: Time) {
        let alone = !self.anybody();
        let Some(watch) = self.watches.get_mut(&node) else { return };
        if watch.is_down() {
            return;
        }
        watch.heard = now;
        if matches!(watch.stage, Stage::Suspect { .. }) && watch.conn.is_some() {
            watch.stage = Stage::Alive;
            self.note(now, node, "heard again: no longer suspected".to_string());
            if alone {
                self.grace = self.grace.max(now + self.config.grace);
            }
        }
    }

    /// The server's control connection has ended: suspected at once.
    pub fn closed(&mut self, node: NodeId, now: Time, out: &mut Vec<Finding>) {
        let Some(watch) = self.watches.get_mut(&node) else { return };
        watch.conn = None;
        if !watch.is_down() {
            self.suspect(node, "its control connection closed", now, out);
        }
    }

    /// The server said goodbye, or its place was taken: down without a probe.
    pub fn gone(&mut self, node: NodeId, why: &str, now: Time, out: &mut Vec<Finding>) {
        if self.watches.get(&node).is_some_and(|watch| !watch.is_down()) {
            self.judge(node, why, now, out);
            // Leaving in order is no flapping.
            if let Some(watch) = self.watches.get_mut(&node) {
                watch.downs.pop();
            }
        }
    }

    /// Something speaks against the server: probe it.
    pub fn suspect(&mut self, node: NodeId, why: &str, now: Time, out: &mut Vec<Finding>) {
        let end = now + self.config.probe + PROBE_MARGIN;
        let Some(watch) = self.watches.get_mut(&node) else { return };
        if watch.is_down() {
            return;
        }
        let news = !matches!(&watch.stage, Stage::Suspect { why: before, .. } if before == why);
        watch.stage = Stage::Suspect { why: why.to_string(), probe: end };
        watch.hint = None;
        if news {
            self.note(now, node, format!("suspected: {why}; probing it"));
        }
        out.push(Finding::Probe(node));
    }

    /// Somebody accuses the server: a hint, which leads to a probe, at most one a second.
    pub fn accused(&mut self, node: NodeId, why: &str, now: Time, out: &mut Vec<Finding>) {
        let Some(watch) = self.watches.get_mut(&node) else { return };
        let recently = watch.accused.is_some_and(|at| now.since(at) < ACCUSATION_PAUSE);
        if watch.stage != Stage::Alive || recently {
            return;
        }
        watch.accused = Some(now);
        watch.hint = Some(now);
        self.note(now, node, format!("accused: {why}; probing it"));
        out.push(Finding::Probe(node));
    }

    /// A probe has ended. `expected` tells whether whoever answered is the process meant.
    pub fn probed(&mut self, node: NodeId, seen: Probed, now: Time, out: &mut Vec<Finding>) {
        let others = self.watches.iter().any(|(other, watch)| *other != node && watch.stage == Stage::Alive);
        let (probe, detached) = (self.config.probe, self.config.suspect);
        let Some(watch) = self.watches.get_mut(&node) else { return };
        let same = |id: common::peer::Identity| id.node == node && id.boot == watch.boot;
        let alive = matches!(seen, Probed::Answered(id) if same(id));
        // What was heard since the probe began outweighs its silence: a heartbeat, or the answer to a later probe.
        let heard_since = now.since(watch.heard) < probe && seen == Probed::Silent;
        match (&watch.stage, watch.hint.take()) {
            (Stage::Alive, Some(_)) => {
                // Accusations evict nobody: a live server's heartbeats outweigh them, and if those stop it is suspected.
                let text = if alive { "the probe was answered" } else { "the probe failed, but it is connected" };
                self.note(now, node, format!("accusation not upheld: {text}"));
            }
            (Stage::Suspect { why, .. }, _) => {
                let why = why.clone();
                if alive || heard_since {
                    watch.lives(now, detached);
                    self.note(now, node, "answers: no longer suspected".to_string());
                } else if seen == Probed::Silent && (!others || now < self.grace) {
                    // Probed again with the next tick; silence alone proves nothing as long as nobody else is heard.
                    watch.stage = Stage::Suspect { why, probe: now + detached };
                } else {
                    self.judge(node, &format!("{why}; probe: {}", seen.words()), now, out);
                }
            }
            (Stage::Detached { since, .. }, _) if !alive && !heard_since => {
                let why = format!("no control connection for {:?}; probe: {}", now.since(*since), seen.words());
                self.judge(node, &why, now, out);
            }
            _ => {}
        }
    }

    /// What a probed process says of its health, for the timeline only: a server that does not serve is alive.
    pub fn said(&mut self, node: NodeId, health: &str, now: Time) {
        let probed = |watch: &Watch| watch.hint.is_some() || matches!(watch.stage, Stage::Suspect { .. });
        if self.watches.get(&node).is_some_and(probed) {
            let health: String = health.chars().filter(|c| !c.is_control()).take(200).collect();
            self.note(now, node, format!("the probe was answered: {health}"));
        }
    }

    fn judge(&mut self, node: NodeId, why: &str, now: Time, out: &mut Vec<Finding>) {
        if let Some(watch) = self.watches.get_mut(&node) {
            watch.stage = Stage::Down { since: now };
            watch.downs.retain(|at| now.since(*at) < FLAP_WINDOW);
            watch.downs.push(now);
            self.note(now, node, format!("down: {why}"));
            out.push(Finding::Down(node));
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Finding>) {
        let due: Vec<NodeId> =
            self.watches.iter().filter(|(_, watch)| self.due(watch) <= now).map(|(node, _)| *node).collect();
        for node in due {
            self.look(node, now, out);
        }
    }

    fn look(&mut self, node: NodeId, now: Time, out: &mut Vec<Finding>) {
        let suspect = self.config.suspect;
        let others = self.watches.iter().any(|(other, watch)| *other != node && watch.stage == Stage::Alive);
        let Some(watch) = self.watches.get_mut(&node) else { return };
        match &mut watch.stage {
            Stage::Awaited => self.suspect(node, "not heard since this ECS started", now, out),
            Stage::Alive => self.suspect(node, &format!("not heard for {suspect:?}"), now, out),
            Stage::Suspect { why, .. } => {
                let why = why.clone();
                self.suspect(node, &why, now, out);
            }
            Stage::Detached { since, .. } if others && now.since(*since) >= self.config.detached => {
                let why = format!("answers probes, but has had no control connection for {:?}", now.since(*since));
                self.judge(node, &why, now, out);
            }
            Stage::Detached { probe_at, .. } => {
                *probe_at = now + suspect;
                out.push(Finding::Probe(node));
            }
            Stage::Down { .. } => {}
        }
    }

    fn due(&self, watch: &Watch) -> Time {
        match &watch.stage {
            Stage::Awaited => self.grace,
            Stage::Alive => watch.heard + self.config.suspect,
            Stage::Suspect { probe, .. } => *probe,
            Stage::Detached { probe_at, .. } => *probe_at,
            Stage::Down { .. } => Time::MAX,
        }
    }

    /// When [`Detector::tick`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.watches.values().map(|watch| self.due(watch)).min().unwrap_or(Time::MAX)
    }

    /// The node is no longer known.
    pub fn forget(&mut self, node: NodeId) {
        self.watches.remove(&node);
    }

    /// The server's control connection.
    #[must_use]
    pub fn conn(&self, node: NodeId) -> Option<Conn> {
        self.watches.get(&node).and_then(|watch| watch.conn)
    }

    /// Whether it has a control connection and is not judged.
    #[must_use]
    pub fn connected(&self, node: NodeId) -> bool {
        self.watches.get(&node).is_some_and(|watch| watch.conn.is_some() && !watch.is_down())
    }

    /// Whether its process runs.
    #[must_use]
    pub fn runs(&self, node: NodeId, now: Time) -> Runs {
        let Some(watch) = self.watches.get(&node) else { return Runs::No };
        let looked_for = now < self.grace || now.since(watch.heard) < self.config.suspect + self.config.probe;
        match watch.stage {
            Stage::Down { .. } => Runs::No,
            Stage::Detached { .. } => Runs::Yes,
            _ if watch.conn.is_some() => Runs::Yes,
            _ if looked_for => Runs::Perhaps,
            _ => Runs::No,
        }
    }

    /// Whether its process was heard after `then`.
    #[must_use]
    pub fn was_heard_after(&self, node: NodeId, then: Time) -> bool {
        self.watches.get(&node).is_some_and(|watch| watch.heard > then)
    }

    /// Connected and not suspected: it can be told things, and will do them.
    #[must_use]
    pub fn healthy(&self, node: NodeId) -> bool {
        self.watches.get(&node).is_some_and(|watch| watch.stage == Stage::Alive)
    }

    /// Healthy, and its disk works.
    #[must_use]
    pub fn fit(&self, node: NodeId) -> bool {
        self.healthy(node) && !self.stalled(node)
    }

    /// Whether the server says that its disk is stalled.
    #[must_use]
    pub fn stalled(&self, node: NodeId) -> bool {
        self.watches.get(&node).is_some_and(|watch| watch.stalled && !watch.is_down())
    }

    /// Whether the server has said that it will stop in a moment.
    #[must_use]
    pub fn draining(&self, node: NodeId, now: Time) -> bool {
        self.watches.get(&node).is_some_and(|watch| watch.draining.is_some_and(|until| now < until))
    }

    /// The server will stop in a moment.
    pub fn drain(&mut self, node: NodeId, now: Time) {
        if let Some(watch) = self.watches.get_mut(&node).filter(|watch| !watch.is_down()) {
            (watch.draining, watch.relieved) = (Some(now + DRAINING), false);
            self.note(now, node, "is about to stop: others coordinate its slots".to_string());
        }
    }

    /// Those that are about to stop and have not been told that they may.
    pub fn unrelieved(&self, now: Time) -> Vec<NodeId> {
        let waits = |watch: &Watch| watch.draining.is_some_and(|until| now < until) && !watch.relieved;
        self.watches.iter().filter(|(_, watch)| waits(watch)).map(|(node, _)| *node).collect()
    }

    /// It was told.
    pub fn relieve(&mut self, node: NodeId) {
        if let Some(watch) = self.watches.get_mut(&node) {
            watch.relieved = true;
        }
    }

    /// Healthy, and heard a moment ago.
    #[must_use]
    pub fn beats_well(&self, node: NodeId, now: Time) -> bool {
        self.healthy(node) && self.watches.get(&node).is_some_and(|watch| now.since(watch.heard) < WELL)
    }

    /// For how long the server has been present without a break.
    #[must_use]
    pub fn present_for(&self, node: NodeId, now: Time) -> Duration {
        self.watches.get(&node).map_or(Duration::ZERO, |watch| now.since(watch.present))
    }

    /// The server did something that speaks against giving it work for a while.
    pub fn unsettle(&mut self, node: NodeId, why: &str, now: Time) {
        if let Some(watch) = self.watches.get_mut(&node) {
            watch.present = now;
            self.note(now, node, why.to_string());
        }
    }

    /// How long the server has been down, if it is.
    #[must_use]
    pub fn down_for(&self, node: NodeId, now: Time) -> Option<Duration> {
        match self.watches.get(&node).map(|watch| &watch.stage) {
            Some(Stage::Down { since }) => Some(now.since(*since)),
            _ => None,
        }
    }

    /// Whether the server may get copies: not while it flaps.
    #[must_use]
    pub fn admitted(&self, node: NodeId, now: Time) -> bool {
        self.watches.get(&node).is_none_or(|watch| watch.admitted <= now)
    }

    /// Whether those that are down may have come back in a moment, because everybody was away: nothing is decided yet.
    #[must_use]
    pub fn in_grace(&self, now: Time) -> bool {
        now < self.grace
    }

    /// How the server stands, in a word, and how long ago it was heard.
    #[must_use]
    pub fn describe(&self, node: NodeId, now: Time) -> (&'static str, Option<Duration>) {
        self.watches
            .get(&node)
            .map_or(("unknown", None), |watch| (watch.stage.name(), watch.beat.map(|at| now.since(at))))
    }

    /// What happened, oldest first.
    pub fn timeline(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.timeline.iter()
    }

    /// Adds to the timeline.
    pub fn note(&mut self, at: Time, node: NodeId, what: String) {
        if self.timeline.len() == TIMELINE {
            self.timeline.pop_front();
        }
        self.timeline.push_back(Incident { at, node, what });
        self.unread = (self.unread + 1).min(TIMELINE);
    }

    /// What has happened since this was last asked, for the log.
    pub fn news(&mut self) -> impl Iterator<Item = &Incident> {
        let read = self.timeline.len() - std::mem::take(&mut self.unread).min(self.timeline.len());
        self.timeline.iter().skip(read)
    }

    fn anybody(&self) -> bool {
        self.watches.values().any(|watch| watch.stage == Stage::Alive)
    }
}

impl Watch {
    fn new(boot: BootId, stage: Stage, now: Time) -> Watch {
        Watch {
            boot,
            conn: None,
            heard: now,
            beat: None,
            present: now,
            stage,
            stalled: false,
            draining: None,
            relieved: false,
            accused: None,
            hint: None,
            downs: Vec::new(),
            admitted: now,
        }
    }

    fn registered(&mut self, boot: BootId, conn: Conn, now: Time) {
        // A process that merely lost its connection was present all the time.
        if self.boot != boot || self.is_down() || self.stage == Stage::Awaited {
            self.present = now;
        }
        if self.is_down() {
            let recent = self.downs.iter().filter(|at| now.since(**at) < FLAP_WINDOW).count();
            self.admitted = now + flap_delay(recent);
        }
        (self.boot, self.conn, self.heard, self.stage) = (boot, Some(conn), now, Stage::Alive);
        (self.stalled, self.draining) = (false, None);
    }

    /// The process lives. Without a control connection it can do its work, but cannot be told anything.
    fn lives(&mut self, now: Time, pause: Duration) {
        self.heard = now;
        self.stage = match self.conn {
            Some(_) => Stage::Alive,
            None => Stage::Detached { since: now, probe_at: now + pause },
        };
    }

    fn is_down(&self) -> bool {
        matches!(self.stage, Stage::Down { .. })
    }
}

/// Nothing the first two times, then doubling.
fn flap_delay(downs: usize) -> Duration {
    match u32::try_from(downs.saturating_sub(2)).unwrap_or(u32::MAX) {
        0 => Duration::ZERO,
        more => Duration::from_secs(1 << more.min(5)).min(FLAP_MAX),
    }
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Stage::Awaited => "awaited",
            Stage::Alive => "alive",
            Stage::Suspect { .. } => "suspected",
            Stage::Detached { .. } => "detached",
            Stage::Down { .. } => "down",
        }
    }
}

impl Probed {
    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Probed::Answered(id) => format!("answered by {} with boot {}", id.node, id.boot),
            Probed::Refused => "connection refused".to_string(),
            Probed::Silent => "no answer".to_string(),
        }
    }
}
