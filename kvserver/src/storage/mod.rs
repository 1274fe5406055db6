//! What a server keeps on disk: a journal of sealed JSON lines, and checkpoints of the three maps.

pub mod image;
pub mod map;
pub mod record;

pub use image::SlotImage;
pub use map::SlotMap;
pub use record::Record;
