//! What a server keeps on disk: a journal of sealed JSON lines, and checkpoints of the three maps.

#[cfg(test)]
mod arbitrary;
pub mod codec;
pub mod image;
mod json;
pub mod map;
pub mod record;

pub use image::SlotImage;
pub use map::SlotMap;
pub use record::Record;
