//! Making it so: what is to be done becomes one durable command, and everybody is told.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use common::control::FromEcs;
use common::view::{NodeState, View};
use common::{NodeId, Rule, Slot, Time};

use crate::cluster::{Cluster, Command, Effects, Proposal};
use crate::core::{Action, Conn, Ecs};
use crate::director::{Placement, Sketch, World};

/// How often a state that is not yet as it should be is looked at again; it is also looked at on every change.
const REVIEW: Duration = Duration::from_millis(250);
/// The same when everything is as it should be.
const REVIEW_AT_REST: Duration = Duration::from_secs(1);
/// How long a changed state rests before it is looked at again.
const REST: Duration = Duration::from_millis(1);
/// The most steps of membership that are taken at once.
const STEPS: usize = 16;

impl Ecs {
    /// Makes what is to be done durable, in one command, and tells everybody: `first` as given, then whatever steps of
    /// membership follow, then all views that should change, beginning with the sketches that were asked for.
    pub(crate) fn settle(
        &mut self,
        now: Time,
        first: Vec<Command>,
        mut asked: BTreeMap<Slot, Sketch>,
        out: &mut Vec<Action>,
    ) {
        self.review = now + if self.at_rest() { REVIEW_AT_REST } else { REVIEW };
        self.tell_news(out);
        if self.refusing.is_some() {
            return;
        }
        let (given_up, mut reasons) = self.look_after_change(now, out);
        let mut draft = Draft { cluster: Cow::Borrowed(&self.cluster), commands: Vec::new() };
        let mut ended = None;
        draft.take(given_up);
        draft.take(first);
        for _ in 0..STEPS {
            let world = World { cluster: draft.cluster.as_ref(), ..self.world(now) };
            let Some((commands, why)) = world.membership(&Placement::of(&world)) else { break };
            if commands.contains(&Command::End) {
                ended = Some(why.clone());
            }
            draft.take(commands);
            reasons.push(why);
        }
        let world = World { cluster: draft.cluster.as_ref(), ..self.world(now) };
        let placement = Placement::of(&world);
        let proposals: Vec<Proposal> = draft
            .cluster
            .views()
            .iter()
            .filter_map(|view| {
                let mut sketch = asked.remove(&view.slot).unwrap_or_else(|| Sketch::of(view));
                world.improve(&placement, view, &mut sketch);
                sketch.proposal(view)
            })
            .collect();
        if !proposals.is_empty() {
            draft.take(vec![Command::Views(proposals)]);
        }
        let Some(command) = draft.finish() else { return };
        self.review = now + REST;
        if ended.is_some() {
            self.last = ended;
        }
        self.commit(now, command, reasons, out);
    }

    /// Whether nothing is due that only time brings.
    fn at_rest(&self) -> bool {
        let mut slots = self.cluster.views().iter().zip(self.cluster.homes());
        self.cluster.change().is_none()
            && self.cluster.nodes().values().all(|info| info.state == NodeState::Up)
            && slots.all(|(view, home)| view.coordinator == home && view.targets.len() == view.isr.len())
    }

    fn commit(&mut self, now: Time, command: Command, reasons: Vec<String>, out: &mut Vec<Action>) {
        let before = self.cluster.views().to_vec();
        let effects = self.cluster.apply(&command);
        for text in reasons.into_iter().chain(summary(&before, &self.cluster, &effects.slots)) {
            out.push(Action::Log { level: log::Level::Info, text });
        }
        // Nobody is told what may be forgotten: what follows waits until this is on disk.
        let first = !self.switches.off(Rule::TellFirst);
        if first {
            out.push(Action::Persist(command.clone()));
        }
        if !effects.is_empty() {
            self.tell(now, &effects, out);
        }
        if !first {
            out.push(Action::Persist(command));
        }
    }

    fn tell(&mut self, now: Time, effects: &Effects, out: &mut Vec<Action>) {
        self.changed = now;
        effects.gone.iter().for_each(|node| self.farewell(*node, out));
        let delta = self.cluster.delta(effects);
        let tell = |conn: &Conn| Action::Send { conn: *conn, msg: FromEcs::Update(delta.clone()) };
        out.extend(self.conns.keys().map(tell));
    }
}

impl Ecs {
    /// The node is no longer known. If it has left and is still there it is told that nothing it holds is needed, and goes.
    fn farewell(&mut self, node: NodeId, out: &mut Vec<Action>) {
        let conn = self.detector.conn(node);
        self.detector.forget(node);
        self.twins.remove(&node);
        self.deferred.remove(&node);
        self.reports.forget(node);
        let departed = self.cluster.departed(node).is_some();
        if let Some(conn) = conn.filter(|_| departed) {
            self.conns.remove(&conn);
            let slots = self.cluster.views().iter().filter(|view| self.reports.active(view));
            let slots = slots.map(|view| (view.slot, view.epoch)).collect();
            out.push(Action::Send { conn, msg: FromEcs::Drop { slots } });
            let reason = format!("{node} has left the cluster: others hold all it had");
            out.push(Action::Send { conn, msg: FromEcs::Left { reason } });
            out.push(Action::Disconnect { conn });
        }
    }
}

/// A copy of the durable state on which steps are tried, and the commands that lead there.
struct Draft<'a> {
    cluster: Cow<'a, Cluster>,
    commands: Vec<Command>,
}

impl Draft<'_> {
    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            self.cluster.to_mut().apply(&command);
            self.commands.push(command);
        }
    }

    fn finish(mut self) -> Option<Command> {
        match self.commands.len() {
            0 | 1 => self.commands.pop(),
            _ => Some(Command::All(self.commands)),
        }
    }
}

/// What became of the slots, in as few lines as possible.
fn summary(before: &[View], cluster: &Cluster, slots: &[Slot]) -> Vec<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for new in slots.iter().filter_map(|slot| cluster.view(*slot)) {
        let Some(old) = before.get(usize::from(new.slot.0)) else {
            *kinds.entry(format!("founded by {}", new.coordinator)).or_default() += 1;
            continue;
        };
        let mut words = Vec::new();
        if old.coordinator != new.coordinator {
            let how = if new.released.is_some() { "handed over" } else { "failed over" };
            words.push(format!("{how} from {} to {}", old.coordinator, new.coordinator));
        }
        let out = old.isr.keys().filter(|node| !new.isr.contains_key(node)).map(|node| format!("{node} out of sync"));
        let into = new.isr.keys().filter(|node| !old.isr.contains_key(node)).map(|node| format!("{node} in sync"));
        words.extend(out.chain(into));
        if old.targets != new.targets {
            words.push(format!("copies at {:?}", new.targets));
        }
        if words.is_empty() {
            words.push(format!("a fresh view for {}", new.coordinator));
        }
        *kinds.entry(words.join(", ")).or_default() += 1;
    }
    kinds.into_iter().map(|(what, slots)| format!("{slots} slots: {what}")).collect()
}
