//! The thread that lets time pass for the slots.
#![allow(clippy::disallowed_methods)] // shell: reads clocks

use std::sync::Weak;
use std::time::Duration;

use common::clock;

use super::Node;

/// How exact the cores' deadlines are kept. All of them are tens of milliseconds and more away.
const TICK: Duration = Duration::from_millis(5);

/// Runs until the node stops.
pub(super) fn run(node: &Weak<Node>) {
    super::slots::flushes_itself();
    loop {
        std::thread::sleep(TICK);
        let Some(node) = node.upgrade().filter(|node| !node.stop.is_cancelled()) else { return };
        if let Some(serving) = node.serving.get() {
            serving.slots.tick(&node, clock::now);
            node.flush();
        }
    }
}
