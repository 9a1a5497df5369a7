//! One process at a time in a folder.

use crate::disk;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;

/// The file that is locked. It stays in the folder; only its lock counts.
const NAME: &str = ".lock";

/// That this process alone works in a folder, until it is dropped. The system takes the lock back from a
/// process that ends in whatever way, so that none is ever stale.
#[derive(Debug)]
#[must_use = "the lock is given back when it is dropped"]
pub struct FolderLock {
    _file: Option<File>,
}

impl FolderLock {
    /// Takes the lock of a folder that exists.
    ///
    /// On a file system that has no locks, it is taken to be free.
    ///
    /// # Errors
    /// [`Error::Invalid`] where another process has it, naming that process; [`Error::Write`] where the
    /// folder cannot be written.
    pub fn take(folder: &Path) -> Result<FolderLock> {
        let path = folder.join(NAME);
        let failed = |e| Error::write(folder, e);
        // Not cut: it holds the other's number.
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let there = disk::read_to_string(&path).unwrap_or_default();
                let whose = match there.trim() {
                    "" => "one that another process works in".to_owned(),
                    number => format!("one that process {number} works in"),
                };
                return Err(Error::invalid(
                    folder.display().to_string(),
                    "a folder that no other process works in",
                    whose,
                    "wait for it or stop it, or choose another `folder`",
                ));
            }
            Err(TryLockError::Error(_)) => return Ok(FolderLock { _file: None }),
        }
        // The number is for people; without it the lock is one all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(FolderLock { _file: Some(file) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err();
        let own = format!("process {} works in", std::process::id());
        assert!(error.exit_status() == 2 && error.to_string().contains(&own), "{error}");
        drop(lock);
        // What a process leaves that ended long ago.
        std::fs::write(folder.path().join(NAME), "4194304\n").unwrap();
        drop(FolderLock::take(folder.path()).unwrap());
        let missing = FolderLock::take(&folder.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
    }
}
