//! What the disk itself costs: the lower bound of every durable write.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
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

/// Copies so many bytes from one file into another, with a sync at the end.
pub(crate) fn copy(folder: &Path, bytes: usize) -> std::io::Result<Duration> {
    let (from, to) = (folder.join("copied-from"), folder.join("copied-to"));
    std::fs::write(&from, vec![b'x'; bytes])?;
    let (mut source, mut target) = (File::open(&from)?, File::create(&to)?);
    let mut piece = vec![0; 1 << 20];
    let began = Instant::now();
    loop {
        // Not `io::copy`: the file system would share the blocks instead of copying them.
        match source.read(&mut piece)? {
            0 => break,
            n => target.write_all(&piece[..n])?,
        }
    }
    target.sync_all()?;
    let took = began.elapsed();
    std::fs::remove_file(from)?;
    std::fs::remove_file(to)?;
    Ok(took)
}
