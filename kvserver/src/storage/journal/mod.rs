//! The journal: everything that happens to any slot, appended to one file and synced in groups.
//!
//! [`Journal::append`] only copies a line into a buffer: callers hold a slot's lock. After [`Journal::begin`] one thread takes
//! whatever has gathered, writes it, syncs it once, and reports how far each slot's records are on disk; while it syncs, the
//! next group gathers. One client waits for one sync; where many come back together, the next group waits for them (`gather`).
//!
//! What goes wrong is decided here and nowhere else:
//! - The disk is full or read-only: the group is kept, its torn beginning cut away, and it is tried again until it
//!   succeeds; meanwhile [`JournalEvent::Writable`] says that nothing more should be begun.
//! - A sync fails: what is on disk is not known any more and a second sync would lie. [`JournalEvent::Fatal`]; the
//!   process must stop.
//! - The disk is slower than the writers: [`Journal::has_room`] turns false at [`Limits::room`], and whoever takes in
//!   writes or peers' messages holds back. What was already begun is always taken, up to [`Limits::most`]; there the
//!   process stops rather than run out of memory.

pub mod extent;
mod gather;
mod marks;
mod writer;

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use common::{Slot, Time};

use super::codec::put_record;
use super::disk::Disk;
use super::record::Record;
use gather::ENOUGH;
use writer::Writer;

/// What the journal's thread reports. The listener runs on that thread: until it returns, nothing more is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalEvent {
    /// All records of these slots up to these marks are on disk.
    Durable {
        /// Each slot at most once, in the order of their first records.
        marks: Vec<(Slot, u64)>,
        /// How many records that are.
        records: usize,
    },
    /// The disk refuses writes (false), or takes them again (true).
    Writable(bool),
    /// Nothing more will ever be durable: the process must stop. The text says why.
    Fatal(String),
}

/// Takes the events.
pub type Listener = Arc<dyn Fn(JournalEvent) + Send + Sync>;

/// Where a journal goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalStart {
    /// The segment to begin.
    pub segment: u64,
    /// The length of the one before it.
    pub after: u64,
}

/// How much may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes from which on nothing new should be begun: some seconds' worth of writes.
    pub room: usize,
    /// Bytes at which the process gives up.
    pub most: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { room: 32 << 20, most: 512 << 20 }
    }
}

/// See the module. Dropping it flushes, like [`Journal::close`].
pub struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// One rotation at a time.
    rotation: Mutex<()>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something for the writer to do.
    work: Condvar,
    /// A rotation was done.
    rotated: Condvar,
    listener: Listener,
    limits: Limits,
    /// Bytes that are appended and not yet synced.
    waiting: AtomicU64,
    /// When the write or sync that is in progress began, in microseconds; 0: none is.
    busy_since: AtomicU64,
    /// Bytes of records in the current segment.
    segment_bytes: AtomicU64,
    /// The current segment, and how many of its bytes are synced.
    synced: Mutex<(u64, u64)>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    marks: Vec<(Slot, u64)>,
    /// The writer waits and must be woken,
    idle: bool,
    /// once there are so many records.
    wanted: usize,
    /// The rotation that is asked for, by number.
    rotate: Option<u64>,
    rotations: u64,
    rotation: Option<io::Result<u64>>,
    closing: bool,
    dead: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writer if it waits for no more than there is, and if that is wanted now.
    fn wake(&self, mut state: MutexGuard<'_, State>, now: bool) {
        let wake = now && state.idle && state.marks.len() >= state.wanted;
        state.idle &= !wake;
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    fn die(&self, why: String) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.dead, true) {
            return;
        }
        drop(state);
        self.rotated.notify_all();
        (self.listener)(JournalEvent::Fatal(why));
    }
}

thread_local! {
    /// Lines are encoded here, so that a large one does not keep others from the buffer meanwhile.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// So many bytes are worth a group whoever is about to bring more.
const MUCH: usize = 256 << 10;
/// Scratch memory above this is given back.
const LINE_KEPT: usize = 1 << 20;

impl Journal {
    /// Begins a segment and starts the writer.
    ///
    /// # Errors
    /// The segment cannot be created or synced.
    pub fn start(disk: Box<dyn Disk>, start: JournalStart, listener: Listener) -> io::Result<Journal> {
        Self::with_limits(disk, start, listener, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// The segment cannot be created or synced.
    pub fn with_limits(
        disk: Box<dyn Disk>,
        start: JournalStart,
        listener: Listener,
        limits: Limits,
    ) -> io::Result<Journal> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            rotated: Condvar::new(),
            listener,
            limits,
            waiting: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            segment_bytes: AtomicU64::new(0),
            synced: Mutex::default(),
        });
        let mut writer = Writer::new(disk, Arc::clone(&shared));
        writer.begin_segment(start.segment, start.after)?;
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run())?;
        Ok(Journal { shared, thread: Mutex::new(Some(thread)), rotation: Mutex::default() })
    }

    /// Appends a record: it will be written, and reported durable once it is synced. Never waits for the disk. Somebody must
    /// call [`Journal::begin`] afterwards: whoever has several records to append, calls it once. Only where many records wait,
    /// or many bytes, they are written without.
    ///
    /// The records of one slot must come in the order of their marks: call it with the slot locked.
    pub fn append(&self, record: &Record) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            put_record(line, record);
            self.append_line(line, record);
            line.shrink_to(LINE_KEPT);
        });
    }

    fn append_line(&self, line: &[u8], record: &Record) {
        let mut state = self.shared.lock();
        if state.dead {
            return;
        }
        let waiting = self.shared.waiting.fetch_add(line.len() as u64, Ordering::Relaxed) + line.len() as u64;
        if waiting > self.shared.limits.most as u64 {
            drop(state);
            return self.shared.die(format!("{waiting} bytes wait for a disk that does not take them: out of memory"));
        }
        state.buffer.extend_from_slice(line);
        state.marks.push((record.slot, record.mark));
        let enough = state.marks.len() >= ENOUGH || state.buffer.len() >= MUCH;
        self.shared.wake(state, enough);
    }

    /// What was appended until now may be written: a writer that waits for it is woken.
    pub fn begin(&self) {
        self.shared.wake(self.shared.lock(), true);
    }

    /// Whether new work may be begun. False while too much waits for the disk: refuse or hold back.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting_bytes() < self.shared.limits.room as u64
    }

    /// Bytes that are appended and not yet synced.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// When the write or sync that has not come back yet was begun. One that is old means that the disk is stalled.
    #[must_use]
    pub fn sync_pending_since(&self) -> Option<Time> {
        match self.shared.busy_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Time(since)),
        }
    }

    /// Bytes of records written since the last rotation (or start).
    #[must_use]
    pub fn bytes_since_rotation(&self) -> u64 {
        self.shared.segment_bytes.load(Ordering::Relaxed)
    }

    /// The current segment and how many of its bytes are synced: they do not change any more.
    #[must_use]
    pub fn synced_to(&self) -> (u64, u64) {
        *self.shared.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new segment and returns its number. Every record appended before the call is in an older one, synced.
    /// Waits for the disk: not to be called with a slot locked.
    ///
    /// # Errors
    /// The segment cannot be made (the disk is full or read-only), or the journal has stopped. The old one goes on.
    pub fn rotate(&self) -> io::Result<u64> {
        let _one = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.lock();
        state.rotations += 1;
        state.rotate = Some(state.rotations);
        state.rotation = None;
        state.idle = false;
        self.shared.work.notify_one();
        loop {
            if let Some(done) = state.rotation.take() {
                return done;
            }
            if state.dead || state.closing {
                return Err(io::Error::other("the journal has stopped"));
            }
            state = self.shared.rotated.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes and syncs everything that was appended, reports it, and ends the writer. What a full disk does not take
    /// is given up: it was never reported durable.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closing = true;
        drop(state);
        self.shared.work.notify_one();
        self.shared.rotated.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic in there has been printed already, and there is nothing left to flush.
            let _ = thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("waiting", &self.waiting_bytes()).finish_non_exhaustive()
    }
}
