//! The asked end of a connection for jobs: does them here, in the order in which they come, and answers as answers come.
#![allow(clippy::disallowed_methods)] // shell: sockets and clocks

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use bytes::BytesMut;
use common::forward::{Forward, Forwarded};
use common::{NodeId, clock, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::came;
use crate::node::Node;
use crate::replica::Reply;
use crate::replies::Registered;

/// Jobs of one peer under way. At this many nothing more is read from it, until answers have come.
const MOST: usize = 4096;
/// Bytes of answers that wait to be taken by it, likewise.
const ANSWERS: usize = 4 << 20;
/// Room made for each read.
const ROOM: usize = 64 << 10;

/// One peer's jobs.
struct Jobs {
    node: Arc<Node>,
    me: Registered,
    /// The numbers of those under way.
    open: BTreeSet<u64>,
    out: BytesMut,
}

/// Serves `from` until it stops, is replaced, or talks nonsense.
pub(crate) async fn serve(node: Arc<Node>, from: NodeId, stream: TcpStream, input: BytesMut, end: &CancellationToken) {
    let me = node.replies().register();
    let jobs = Jobs { node, me, open: BTreeSet::new(), out: BytesMut::new() };
    tokio::select! {
        () = end.cancelled() => {}
        ended = jobs.run(stream, input) => {
            if let Err(error) = ended {
                log::debug!("the connection for jobs from {from} is closed: {error:#}");
            }
        }
    }
}

impl Jobs {
    async fn run(mut self, mut stream: TcpStream, mut input: BytesMut) -> anyhow::Result<()> {
        let (mut read, mut write) = stream.split();
        let mut arrived = Vec::new();
        loop {
            while self.has_room() {
                let Some(forward) = frame::take(&mut input)? else { break };
                self.begin(forward)?;
            }
            let (wants, full) = (self.has_room(), !self.out.is_empty());
            if wants {
                input.reserve(ROOM);
            }
            tokio::select! {
                () = std::future::poll_fn(|cx| self.me.inbox().poll_drain(cx, &mut arrived)) => {}
                written = write.write_buf(&mut self.out), if full => { written?; }
                got = read.read_buf(&mut input), if wants => if got? == 0 { return Ok(()) },
            }
            for (number, reply) in arrived.drain(..) {
                self.answer(number, reply);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.open.len() < MOST && self.out.len() < ANSWERS
    }

    fn begin(&mut self, forward: Forward) -> anyhow::Result<()> {
        let number = forward.number;
        if !self.open.insert(number) {
            bail!("number {number} is under way already");
        }
        if forward.job.is_write() && forward.request.is_none() {
            bail!("a write without a request id");
        }
        if let Some(reply) = self.node.perform_job(clock::now(), forward, self.me.token(number)) {
            self.answer(number, reply);
        }
        Ok(())
    }

    fn answer(&mut self, number: u64, reply: Reply) {
        if self.open.remove(&number)
            && let Some(came) = came(reply)
        {
            frame::put(&mut self.out, &Forwarded { number, came });
        }
    }
}
