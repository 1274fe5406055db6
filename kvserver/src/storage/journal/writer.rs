//! The thread that writes the journal.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use common::{Slot, clock};

use super::super::codec::{SegmentHead, put_head, put_synced};
use super::super::disk::{Disk, FileOp};
use super::super::manifest::segment_name;
use super::extent::{AHEAD, Extent};
use super::gather::Gather;
use super::marks::Marks;
use super::{JournalEvent, Shared, State};

/// How long a full disk is left alone before the next attempt.
const RETRY: Duration = Duration::from_millis(100);
/// A group's memory above this is given back once it is written.
const BUFFER_KEPT: usize = 256 << 10;

pub(super) struct Writer {
    disk: Box<dyn Disk>,
    shared: Arc<Shared>,
    segment: u64,
    name: String,
    extent: Extent,
    /// Whether a failed write may have left something behind the lines.
    torn: bool,
    /// There was no space for room.
    tight: bool,
    group: Vec<u8>,
    marks: Vec<(Slot, u64)>,
    condense: Marks,
    gather: Gather,
}

/// What to do about a failed write.
#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    /// It can succeed later: space may be made, a mount be mended.
    Again,
    /// The process stops.
    Stop,
}

fn judge(error: &io::Error) -> Verdict {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem => Verdict::Again,
        _ => Verdict::Stop,
    }
}

/// Why the writer ends.
enum End {
    Fatal(String),
    /// The journal is being closed while the disk is full.
    GivenUp,
}

/// What is to be done next.
struct Task {
    /// The rotation to be made once the group is written. It may have been answered by then.
    rotate: Option<u64>,
    close: bool,
}

impl Writer {
    pub(super) fn new(disk: Box<dyn Disk>, shared: Arc<Shared>) -> Writer {
        Writer {
            disk,
            shared,
            segment: 0,
            name: String::new(),
            extent: Extent::new(&[], AHEAD),
            torn: false,
            tight: false,
            group: Vec::new(),
            marks: Vec::new(),
            condense: Marks::default(),
            gather: Gather::default(),
        }
    }

    /// Creates a segment and makes it the current one. On an error the old one stays current.
    pub(super) fn begin_segment(&mut self, segment: u64, after: u64) -> io::Result<()> {
        let name = segment_name(segment);
        let mut head = Vec::new();
        put_head(&mut head, &SegmentHead { segment, after });
        self.disk.perform(FileOp::Create(name.clone()))?;
        self.disk.perform(FileOp::Append(name.clone(), &head))?;
        self.disk.perform(FileOp::Sync(name.clone()))?;
        self.disk.perform(FileOp::SyncDir)?;
        (self.segment, self.name, self.extent) = (segment, name, Extent::new(&head, AHEAD));
        (self.torn, self.tight) = (false, false);
        self.publish();
        self.shared.segment_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn run(mut self) {
        let end = loop {
            let task = self.wait();
            if !self.group.is_empty()
                && let Err(end) = self.commit()
            {
                break end;
            }
            if let Some(number) = task.rotate
                && let Err(end) = self.rotate(number)
            {
                break end;
            }
            if task.close {
                // Only for the eyes of whoever looks at the file: the next start would do it.
                let _ = self.trim();
                return;
            }
        };
        match end {
            End::Fatal(why) => self.shared.die(why),
            End::GivenUp => {}
        }
    }

    /// Waits for something to do and takes what has gathered.
    ///
    /// A client who is alone waits for nobody. Where threads wait for processors, those that bring records go first, and those
    /// whom the last group has answered are waited for: the group gets larger, and the syncs, which cost more than anything
    /// else, fewer.
    fn wait(&mut self) -> Task {
        std::thread::yield_now();
        let mut state = self.shared.lock();
        while state.buffer.is_empty() && state.rotate.is_none() && !state.closing {
            (state.idle, state.wanted) = (true, 1);
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let hurry = |state: &State| state.rotate.is_some() || state.closing;
        if let Some((wanted, most)) = self.gather.wait_for(clock::now(), state.marks.len()).filter(|_| !hurry(&state)) {
            (state.idle, state.wanted) = (true, wanted);
            let more = |state: &mut State| state.marks.len() < wanted && !hurry(state);
            let waited = self.shared.work.wait_timeout_while(state, most, more);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.gather.waited(state.marks.len() >= wanted || hurry(&state));
        }
        state.idle = false;
        std::mem::swap(&mut state.buffer, &mut self.group);
        std::mem::swap(&mut state.marks, &mut self.marks);
        Task { rotate: state.rotate, close: state.closing }
    }

    /// Writes and syncs the group, and reports it.
    fn commit(&mut self) -> Result<(), End> {
        let bytes_of_records = self.group.len() as u64;
        put_synced(&mut self.group, self.extent.length());
        let began = clock::now();
        self.write()?;
        self.busy();
        let synced = self.disk.perform(FileOp::Sync(self.name.clone()));
        self.shared.busy_since.store(0, Ordering::Relaxed);
        synced.map_err(|e| {
            End::Fatal(format!("cannot sync {}: {e}; a retry would lie, so the process stops", self.name))
        })?;
        let bytes = self.group.len() as u64;
        self.shared.segment_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shared.waiting.fetch_sub(bytes_of_records, Ordering::Relaxed);
        self.publish();
        self.group.clear();
        self.group.shrink_to(BUFFER_KEPT);
        let (records, took) = (self.marks.len(), clock::now().since(began));
        let mut marks = std::mem::take(&mut self.marks);
        self.condense.condense(&mut marks);
        (self.shared.listener)(JournalEvent::Durable { marks, records });
        self.gather.answered(records, clock::now(), took);
        Ok(())
    }

    /// Says how far the current segment is synced.
    fn publish(&self) {
        *self.shared.synced.lock().unwrap_or_else(PoisonError::into_inner) = (self.segment, self.extent.length());
    }

    fn busy(&self) {
        self.shared.busy_since.store(clock::now().0.max(1), Ordering::Relaxed);
    }

    /// Writes the group, however long it takes.
    fn write(&mut self) -> Result<(), End> {
        let mut refused = false;
        loop {
            self.busy();
            let attempt = self.try_write();
            self.shared.busy_since.store(0, Ordering::Relaxed);
            let Err(error) = attempt else { break };
            if judge(&error) == Verdict::Stop {
                return Err(End::Fatal(format!("cannot write {}: {error}", self.name)));
            }
            if !std::mem::replace(&mut refused, true) {
                log::error!("{} takes no more writes: {error}; trying again until it does", self.name);
                (self.shared.listener)(JournalEvent::Writable(false));
            }
            self.pause(&error)?;
        }
        if refused {
            log::info!("{} takes writes again", self.name);
            (self.shared.listener)(JournalEvent::Writable(true));
        }
        Ok(())
    }

    /// Cuts away what a failed attempt left, then writes. Neither is repeated before the other has succeeded.
    fn try_write(&mut self) -> io::Result<()> {
        if self.torn {
            self.cut()?;
            return self.put(false).map_err(|(error, _)| error);
        }
        match self.put(!self.tight) {
            // Room is a luxury: without it there may be space enough.
            Err((error, true)) if judge(&error) == Verdict::Again => {
                self.tight = true;
                self.cut()?;
                self.put(false).map_err(|(error, _)| error)
            }
            done => done.map_err(|(error, _)| error),
        }
    }

    /// Writes the group; `more`: with room, if it is time for some. With an error comes whether room was to be made.
    fn put(&mut self, more: bool) -> Result<(), (io::Error, bool)> {
        self.torn = true;
        let (at, bytes) = self.extent.frame(&self.group, more);
        let written = self.disk.perform(FileOp::Write(self.name.clone(), at, bytes));
        let bytes = bytes.len();
        written.map_err(|error| (error, self.extent.makes_room(self.group.len(), at, bytes)))?;
        self.extent.wrote(&self.group, at, bytes);
        self.torn = false;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.disk.perform(FileOp::Truncate(self.name.clone(), self.extent.length()))?;
        self.extent.cut();
        Ok(())
    }

    /// Ends the segment where its lines end. Inner error: it is as it was.
    fn trim(&mut self) -> Result<io::Result<()>, End> {
        if !self.extent.has_room() {
            return Ok(Ok(()));
        }
        if let Err(error) = self.cut() {
            return Ok(Err(error));
        }
        let synced = self.disk.perform(FileOp::Sync(self.name.clone()));
        synced.map_err(|e| {
            End::Fatal(format!("cannot sync {}: {e}; a retry would lie, so the process stops", self.name))
        })?;
        Ok(Ok(()))
    }

    /// Waits before the next attempt. Whoever waits for a rotation is told that there is none now.
    fn pause(&mut self, error: &io::Error) -> Result<(), End> {
        let mut state = self.shared.lock();
        if state.closing {
            return Err(End::GivenUp);
        }
        if state.rotate.take().is_some() {
            state.rotation = Some(Err(io::Error::new(error.kind(), error.to_string())));
            self.shared.rotated.notify_all();
        }
        let wait = self.shared.work.wait_timeout_while(state, RETRY, |state| !state.closing && state.rotate.is_none());
        drop(wait);
        Ok(())
    }

    fn rotate(&mut self, number: u64) -> Result<(), End> {
        if self.shared.lock().rotate.take_if(|asked| *asked == number).is_none() {
            return Ok(());
        }
        // A segment that is not the last one ends with its last line: recovery takes anything else there for damage.
        let trimmed = self.trim()?;
        let old = self.name.clone();
        let (next, after) = (self.segment + 1, self.extent.length());
        let rotated = match trimmed.and_then(|()| self.begin_segment(next, after)) {
            Ok(()) => {
                // Closing changes nothing on the disk; there is nothing to be done about an error.
                let _ = self.disk.perform(FileOp::Close(old));
                Ok(next)
            }
            Err(error) if judge(&error) == Verdict::Again => {
                let removed = self.disk.perform(FileOp::Remove(segment_name(next)));
                let removed = removed.and_then(|()| self.disk.perform(FileOp::SyncDir));
                log::warn!(
                    "no new journal segment: {error}{}",
                    removed.err().map_or(String::new(), |e| format!("; {e}"))
                );
                Err(error)
            }
            Err(error) => return Err(End::Fatal(format!("cannot begin {}: {error}", segment_name(next)))),
        };
        self.shared.lock().rotation = Some(rotated);
        self.shared.rotated.notify_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_pass_is_tried_again() {
        for (code, verdict) in [(28, Verdict::Again), (30, Verdict::Again), (122, Verdict::Again), (5, Verdict::Stop)] {
            assert_eq!(judge(&io::Error::from_raw_os_error(code)), verdict, "errno {code}");
        }
    }
}
