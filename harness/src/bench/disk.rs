//! What the disk itself costs: the lower bound of every durable write.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::histogram::Histogram;

/// Appends 200 bytes and syncs the data, over and over.
pub(crate) fn fdatasync(folder: &Path, length: Duration) -> std::io::Result<Histogram> {
    let path = folder.join("fdatasync");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut histogram = Histogram::default();
    let end = Instant::now() + length;
    while Instant::now() < end {
        let began = Instant::now();
        file.write_all(&[b'x'; 200])?;
        file.sync_data()?;
        histogram.add(began.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(histogram)
}
