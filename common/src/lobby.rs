//! A waiting room for connections that nobody has vouched for yet, with a fixed number of seats.
//!
//! When it is full, whoever has sat there longest goes. So a crowd that connects and says nothing cannot keep out those
//! who say at once what they want: it only drives itself out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// See the module.
#[derive(Debug)]
pub struct Lobby {
    seats: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Oldest first.
    seated: BTreeMap<u64, CancellationToken>,
    driven_out: u64,
}

/// A place in a [`Lobby`], until it is dropped or somebody newer needs it.
#[derive(Debug)]
pub struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    gone: CancellationToken,
}

impl Lobby {
    /// A room with so many seats.
    #[must_use]
    pub fn new(seats: usize) -> Arc<Lobby> {
        Arc::new(Lobby { seats, waiting: Mutex::default() })
    }

    /// Takes a seat, if need be that of whoever has had one longest.
    #[must_use]
    pub fn enter(self: &Arc<Lobby>) -> Seat {
        let gone = CancellationToken::new();
        let mut waiting = self.lock();
        while waiting.seated.len() >= self.seats.max(1) {
            if let Some((_, longest)) = waiting.seated.pop_first() {
                longest.cancel();
                waiting.driven_out += 1;
            }
        }
        waiting.next += 1;
        let number = waiting.next;
        waiting.seated.insert(number, gone.clone());
        drop(waiting);
        Seat { lobby: self.clone(), number, gone }
    }

    /// How many had to go for others, ever.
    #[must_use]
    pub fn driven_out(&self) -> u64 {
        self.lock().driven_out
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Does what the seat is needed for. None: the seat was needed for somebody newer.
    pub async fn during<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        self.gone.run_until_cancelled(what).await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.lock().seated.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_longest_goes_and_a_free_seat_costs_nobody_his() {
        let lobby = Lobby::new(2);
        let (one, two) = (lobby.enter(), lobby.enter());
        assert_eq!((one.during(async { 1 }).await, lobby.driven_out()), (Some(1), 0));
        let three = lobby.enter();
        assert_eq!(one.during(std::future::pending::<()>()).await, None);
        drop((one, two));
        let four = lobby.enter();
        assert_eq!((three.during(async { 3 }).await, four.during(async { 4 }).await), (Some(3), Some(4)));
        assert_eq!(lobby.driven_out(), 1);
    }
}
