//! What a server keeps on disk: a journal of sealed JSON lines, and checkpoints of the three maps.
//!
//! | pure | |
//! |---|---|
//! | [`record`], [`codec`] | a journal line |
//! | [`image`], [`map`] | one slot's durable state |
//! | [`section`], [`manifest`] | one slot's part of a checkpoint, and what holds the parts together |
//! | [`checkpoint`] | the order of file operations that makes a checkpoint |
//! | [`recovery`], [`damage`] | from files to images, or what is wrong with them |
//! | [`scrub`] | whether the files are still what was written |
//! | **shell** | |
//! | [`common::disk`] | the files of a directory |
//! | [`journal`] | the thread that appends records |
//! | [`data_dir`] | the directory's lock and identity |
//! | [`store`] | opening all of it, and writing checkpoints |

#[cfg(test)]
mod arbitrary;
pub mod checkpoint;
pub mod codec;
pub mod damage;
pub mod data_dir;
pub mod image;
pub mod journal;
mod json;
pub mod manifest;
pub mod map;
mod packed;
pub mod record;
mod records;
pub mod recovery;
mod replay;
mod scan;
mod scrub;
pub mod section;
pub mod store;
#[cfg(test)]
mod tests;

pub use common::{disk, mem_disk};

pub use checkpoint::{CheckpointError, CheckpointWriter};
pub use damage::{Corruption, Failure, Loss};
pub use disk::{Disk, FileOp, RealDisk};
pub use image::SlotImage;
pub use journal::{Journal, JournalEvent, JournalStart};
pub use map::SlotMap;
pub use record::Record;
pub use recovery::{Recovered, Report, recover, salvage};
pub use scrub::{Scrubbed, scrub};
pub use section::{Role, SlotEncoder, SlotParts};
pub use store::{Checkpointer, Opened, StoreOptions, open};
