//! What operators ask of the cluster's membership, on its way to the ECS and back, and what the ECS says about us.
//!
//! The client port does not talk to the ECS; it leaves a wish at the [`Desk`], the control connection carries it, and the
//! answer goes to whoever asked.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::control::{Granted, Wish};
use tokio::sync::{Notify, oneshot, watch};

use super::Node;
use super::desk::{Desk, lost, told, unconnected};
use crate::replica::{Reply, Token};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    state: Mutex<State>,
    wake: Notify,
    /// Set once this server is no longer part of the cluster: how it went.
    gone: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    desk: Desk<Asker>,
    /// The last thing the ECS wanted the operator to know.
    notice: Option<String>,
}

#[derive(Debug)]
enum Asker {
    /// A client.
    Client(Token),
    /// This process itself.
    Own(oneshot::Sender<Granted>),
}

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, wish: Wish, asker: Asker) -> Result<(), (Asker, Granted)> {
        self.lock().desk.push(wish, asker)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Returns when there is something to send, or was.
    pub(crate) async fn wanted(&self) {
        self.wake.notified().await;
    }

    /// Takes all that is to be sent.
    pub(crate) fn take(&self) -> Vec<(u64, Wish)> {
        self.lock().desk.take()
    }
}

impl Node {
    /// Passes a client's wish on; the answer comes through [`crate::replies::Replies`].
    pub fn wish(&self, wish: Wish, token: Token) {
        let refused = match self.wish_or(wish, Asker::Client(token)) {
            Ok(()) => return,
            Err((_, why)) => why,
        };
        self.replies.complete(token, Reply::Page(told(&refused)));
    }

    /// Asks the ECS for something in this server's own name. While the ECS is away it is busy: one asks again.
    pub async fn own_wish(&self, wish: Wish) -> Granted {
        let (answer, coming) = oneshot::channel();
        let granted = match self.wish_or(wish, Asker::Own(answer)) {
            Ok(()) => coming.await.unwrap_or_else(|_| lost()),
            Err((_, why)) => why,
        };
        match granted {
            Granted::No(why) if !self.standalone() && !self.lock_ecs().connected => Granted::Busy(why),
            granted => granted,
        }
    }

    fn wish_or(&self, wish: Wish, asker: Asker) -> Result<(), (Asker, Granted)> {
        if self.standalone() {
            let why = "this server is standalone: it was started without -b, and is no part of a cluster";
            return Err((asker, Granted::No(why.into())));
        }
        if !self.lock_ecs().connected {
            return Err((asker, unconnected()));
        }
        self.wishes.push(wish, asker)
    }

    pub(crate) fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// The ECS has answered.
    pub(crate) fn granted(&self, id: u64, granted: Granted) {
        let asker = self.wishes.lock().desk.answered(id);
        match asker {
            Some(Asker::Client(token)) => self.replies.complete(token, Reply::Page(told(&granted))),
            // Whoever asked may have lost patience.
            Some(Asker::Own(answer)) => drop(answer.send(granted)),
            None => {}
        }
    }

    /// The control connection has ended: what was asked over it will not be answered.
    pub(crate) fn wishes_lost(&self) {
        let waiting: Vec<Asker> = self.wishes.lock().desk.lose().collect();
        for asker in waiting {
            match asker {
                Asker::Client(token) => self.replies.complete(token, Reply::Page(told(&lost()))),
                Asker::Own(answer) => drop(answer.send(lost())),
            }
        }
    }

    /// The ECS says that this server is no longer part of the cluster.
    pub(crate) fn has_left(&self, reason: String) {
        log::warn!("{reason}");
        self.wishes.gone.send_replace(Some(reason));
    }

    /// Why this server is no longer part of the cluster, if so.
    #[must_use]
    pub fn left(&self) -> Option<String> {
        self.wishes.gone.borrow().clone()
    }

    /// Waits until this server is no longer part of the cluster.
    pub async fn until_left(&self) -> String {
        let mut gone = self.wishes.gone.subscribe();
        loop {
            if let Some(reason) = gone.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives as long as this node: waiting cannot fail.
            let _changed = gone.changed().await;
        }
    }

    /// The ECS wants the operator to know something.
    pub(crate) fn notice(&self, text: String) {
        log::warn!("the ECS says: {text}");
        self.wishes.lock().notice = Some(text);
    }

    /// What it said last.
    #[must_use]
    pub fn last_notice(&self) -> Option<String> {
        self.wishes.lock().notice.clone()
    }
}
