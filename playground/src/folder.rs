//! Where a playground's data lies: `storage-dirs/` of the project it was built from, or of the current folder.

use std::io;
use std::path::{Path, PathBuf};

/// The folder's name, at the top of the project.
const STORAGE: &str = "storage-dirs";
/// More runs than this have certainly piled up by mistake.
const MOST: u32 = 100_000;

/// The nearest `storage-dirs/` above the current folder or the binary, or else a new one in the current folder.
///
/// # Errors
/// There is no current folder.
pub(crate) fn storage() -> io::Result<PathBuf> {
    let here = std::env::current_dir()?;
    let binary = std::env::current_exe().unwrap_or_default();
    let above = here.ancestors().chain(binary.ancestors().skip(1));
    let found = above.map(|folder| folder.join(STORAGE)).find(|folder| folder.is_dir());
    Ok(found.unwrap_or_else(|| here.join(STORAGE)))
}

/// The folder that `--keep` goes on with.
///
/// # Errors
/// It cannot be made.
pub(crate) fn kept(storage: &Path) -> io::Result<PathBuf> {
    let folder = storage.join("playground");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A new, empty folder: `playground-1`, `playground-2`, ...
///
/// # Errors
/// It cannot be made.
pub(crate) fn fresh(storage: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(storage)?;
    for number in 1..MOST {
        let folder = storage.join(format!("playground-{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
            Err(other) => return Err(other),
        }
    }
    Err(io::Error::other(format!("{} holds {MOST} old playgrounds: remove some", storage.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_folders_are_new_and_empty_and_the_kept_one_stays() {
        let storage = std::env::temp_dir().join(format!("annulus-folder-{}", std::process::id()));
        let (first, second) = (fresh(&storage).unwrap(), fresh(&storage).unwrap());
        assert_ne!(first, second);
        assert_eq!(std::fs::read_dir(&second).unwrap().count(), 0);
        assert_eq!(kept(&storage).unwrap(), kept(&storage).unwrap());
        std::fs::remove_dir_all(storage).unwrap();
    }
}
