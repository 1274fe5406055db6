//! Questions that any server answers for the whole cluster: `num_keys`, `first_key`, `last_key`, `node_list`,
//! `status cluster`, `explain`, `timeline`.
//!
//! The server that is asked asks the others ([`ask`]), each of which answers from what it holds ([`local`]); what is
//! counted is put together by a core ([`gather`]), what is told by [`report`]. Nothing here is on the way of a read or a
//! write, and nothing is kept. The client port only hands a question over and gets its answer like any other reply.
//!
//! Bounds: [`ASKED`] questions of clients at a time (a further one is refused), [`PATIENCE`] for each.
#![allow(clippy::disallowed_methods)] // shell: tasks and clocks

mod ask;
pub mod asked;
pub mod gather;
mod local;
mod report;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use ask::serve;
use asked::{Asked, What};
use common::NodeInfo;
use common::blob::Blob;
use common::question::{Ask, Extents, Say};
use common::text::Whole;
use gather::Gather;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::node::Node;
use crate::replica::{Refusal, Reply, Token};

/// Questions of clients that are being answered at a time: each may keep every server busy for a moment.
const ASKED: usize = 16;
/// Questions of other servers that are being answered at a time.
const ANSWERED: usize = 64;
/// How long a question may take: a little less than a client waits before it gives a server up.
pub const PATIENCE: Duration = Duration::from_millis(800);
/// How long one server may take before the slots it was asked about are looked up anew.
pub const ATTEMPT: Duration = Duration::from_millis(300);
/// How long after a refusal the slots are asked about again: an election or a hand-over is a matter of milliseconds.
pub const PAUSE: Duration = Duration::from_millis(20);

const BUSY: &str = "16 questions about the whole cluster are being answered already: try again in a moment";
const UNREGISTERED: &str = "this server has not heard from the ECS yet";

/// What bounds the questions under way.
#[derive(Debug)]
pub(crate) struct Questions {
    asked: Arc<Semaphore>,
    answered: Semaphore,
}

impl Default for Questions {
    fn default() -> Self {
        Questions { asked: Arc::new(Semaphore::new(ASKED)), answered: Semaphore::new(ANSWERED) }
    }
}

impl Node {
    /// Starts a question about the whole cluster; it is answered through [`crate::replies::Replies`].
    pub fn question(self: &Arc<Self>, whole: &Whole<'_>, token: Token) {
        let Ok(permit) = self.questions().asked.clone().try_acquire_owned() else {
            self.replies().complete(token, Reply::Refused(Refusal::Unavailable(BUSY)));
            return;
        };
        let (node, asked) = (self.clone(), Asked::of(whole));
        self.links().main().spawn(async move {
            let reply = if node.serving() {
                node.reply_to(&asked).await
            } else {
                Reply::Refused(Refusal::Unavailable(UNREGISTERED))
            };
            node.replies().complete(token, reply);
            drop(permit);
        });
    }

    async fn reply_to(self: &Arc<Self>, asked: &Asked) -> Reply {
        let until = Instant::now() + PATIENCE;
        match &asked.what {
            What::Count | What::First(_) | What::Last(_) => self.all(until).await.map(|all| asked.counted(all)),
            What::Nodes => Ok(asked.told(self.with_topology(report::nodes))),
            What::Cluster => Ok(asked.told(self.cluster(until).await.to_string())),
            What::Explain(key) => Ok(asked.told(self.explain(key, until).await.to_string())),
            What::Timeline => ask::ecs(self, r#""timeline""#, until).await.map(|line| asked.told(line)),
        }
        .unwrap_or_else(|why| asked.failed(why))
    }

    /// What all slots hold, each read like a key at some moment of the question.
    async fn all(self: &Arc<Self>, until: Instant) -> Result<Extents, String> {
        let mut gather = Gather::new(self.slots().unwrap_or(0));
        loop {
            let rounds = self.with_topology(|topology| gather.round(|slot| topology.view(slot).map(|v| v.coordinator)));
            let mut answers = JoinSet::new();
            for (who, slots) in rounds {
                let node = self.clone();
                let attempt = until.min(Instant::now() + ATTEMPT);
                answers.spawn(async move {
                    let said = node.ask(who, Ask::Extents(slots.clone()), attempt).await;
                    (slots, said)
                });
            }
            while let Some(Ok((slots, said))) = answers.join_next().await {
                gather.take(&slots, said);
            }
            if gather.is_done() || Instant::now() + PAUSE >= until {
                let told = |slot, why: &str| self.with_topology(|topology| report::unserved(topology, slot, why));
                return gather.end().map_err(|(slot, why)| told(slot, &why));
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks a server, or this one itself.
    async fn ask(self: &Arc<Self>, who: common::NodeId, ask: Ask, until: Instant) -> Result<Say, String> {
        if who == self.identity().node {
            return Ok(local::answer(self, ask, until).await);
        }
        let info = self.with_topology(|topology| topology.nodes.get(&who).cloned());
        match info {
            Some(info) => ask::peer(self, &info, ask, until).await,
            None => Err(format!("node {who} is not in the node table")),
        }
    }

    /// Asks every server of the node table at the same time.
    async fn ask_all(self: &Arc<Self>, ask: &Ask, until: Instant) -> Vec<(NodeInfo, Result<Say, String>)> {
        let nodes: Vec<NodeInfo> = self.with_topology(|topology| topology.nodes.values().cloned().collect());
        let mut answers = JoinSet::new();
        for info in nodes {
            let (node, ask) = (self.clone(), ask.clone());
            answers.spawn(async move {
                let said = node.ask(info.node, ask, until).await;
                (info, said)
            });
        }
        let mut all = answers.join_all().await;
        all.sort_by(|(a, _), (b, _)| a.client_addr.cmp(&b.client_addr));
        all
    }

    async fn cluster(self: &Arc<Self>, until: Instant) -> serde_json::Value {
        let (servers, ecs) = tokio::join!(self.ask_all(&Ask::Standing, until), ask::ecs(self, r#""status""#, until));
        let ecs =
            ecs.and_then(|line| serde_json::from_str(&line).map_err(|error| format!("it says nonsense: {error}")));
        report::cluster(self, &servers, &ecs)
    }

    async fn explain(self: &Arc<Self>, key: &Blob, until: Instant) -> serde_json::Value {
        let holders = self.ask_all(&Ask::Holding(key.clone()), until).await;
        report::explain(self, key, &holders)
    }
}
