//! Small file systems of their own: a tmpfs that fills up, an ext4 in a file that loses its power. All need root, and all
//! are gone when dropped; what a killed run left behind is removed by the next one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The folder of everything that this process makes.
#[must_use]
pub fn temporary() -> PathBuf {
    std::env::temp_dir().join(format!("annulus-nemesis-{}", std::process::id()))
}

/// Runs a program to its end.
///
/// # Errors
/// It fails: with what it said.
pub fn run(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().with_context(|| format!("cannot run {}", words[0]))?;
    if !output.status.success() {
        bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    image: Option<PathBuf>,
}

impl Mount {
    /// A tmpfs of this size (as `mount` spells it) at `path`.
    ///
    /// # Errors
    /// Not allowed.
    pub fn tmpfs(path: &Path, size: &str) -> anyhow::Result<Mount> {
        std::fs::create_dir_all(path)?;
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "annulus-nemesis", &text(path)])?;
        Ok(Mount { path: path.to_owned(), image: None })
    }

    /// A new ext4 of 64 MiB in a file beside `path`.
    ///
    /// # Errors
    /// Not allowed, or `mkfs.ext4` is missing.
    pub fn ext4(path: &Path) -> anyhow::Result<Mount> {
        std::fs::create_dir_all(path)?;
        let image = path.with_extension("img");
        std::fs::File::create(&image)?.set_len(64 << 20)?;
        run(&["mkfs.ext4", "-q", "-F", &text(&image)])?;
        let mount = Mount { path: path.to_owned(), image: Some(image) };
        mount.mount()?;
        Ok(mount)
    }

    fn mount(&self) -> anyhow::Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        run(&["mount", "-o", "loop", &text(image), &text(&self.path)]).map(drop)
    }

    /// The power is gone: nothing that was not synced reaches the image any more. The file system goes on in error until
    /// [`Mount::power_on`].
    ///
    /// # Errors
    /// `xfs_io` is missing.
    pub fn power_off(&self) -> anyhow::Result<()> {
        run(&["xfs_io", "-x", "-c", "shutdown", &text(&self.path)]).map(drop)
    }

    /// Mounts what is left; nobody may use it at the moment.
    ///
    /// # Errors
    /// Somebody does.
    pub fn power_on(&self) -> anyhow::Result<()> {
        run(&["umount", &text(&self.path)])?;
        self.mount()
    }

    /// Makes it read-only (even for files that are open for writing), or writable again.
    ///
    /// # Errors
    /// Not allowed.
    pub fn read_only(&self, yes: bool) -> anyhow::Result<()> {
        // As an I/O error would do it: an ordinary remount is refused while files are open for writing.
        run(&["mount", "-o", if yes { "remount,abort" } else { "remount,rw" }, &text(&self.path)]).map(drop)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process on its way out may still hold a file.
        let _ = run(&["umount", "-l", &text(&self.path)]);
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Unmounts and removes what runs that were killed left behind.
pub fn sweep() {
    let dead = |name: &str| {
        let id = name.strip_prefix("annulus-nemesis-").and_then(|id| id.parse::<u32>().ok());
        id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
    };
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for at in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if at.split('/').any(&dead) {
            let _ = run(&["umount", "-l", at]);
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        // Failed scenarios keep their folders for people; only those of a day ago go.
        let old = entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| {
            at.elapsed().is_ok_and(|age| age > std::time::Duration::from_secs(86_400))
        });
        if old && entry.file_name().to_str().is_some_and(&dead) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    super::spaces::sweep();
}
