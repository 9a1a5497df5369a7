//! Files that are there whole or not at all.

use crate::disk::{self, DiskFile};
use crate::error::{Error, Result};
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A file that [`write_atomically`] fills.
pub type Writer = BufWriter<DiskFile>;

/// Writes a file so that at every moment, a crash or a power cut included, `path` holds either what it held
/// before or everything that `write` wrote: into a file `.NAME.tmp` in the same folder, synced, then renamed,
/// and the folder synced.
///
/// Two processes that write the same path do not meet: a temporary file is locked by who fills it, and
/// another takes the next name, `.NAME.2.tmp`. One that a killed process left is locked by nobody, and is
/// used again.
///
/// # Errors
/// [`Error::Write`] with `path` where the system refuses a step or `write` fails; the temporary file is then
/// gone and `path` unchanged. [`Error::NotDurable`] where only the folder could not be synced.
/// [`Error::Invalid`] where `path` is a folder or a device, which a rename would replace.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut Writer) -> io::Result<()>) -> Result<()> {
    let mut write = Some(write);
    replace(path, &mut |file| write.take().map_or(Ok(()), |write| write(file)))
}

/// [`write_atomically`], compiled once for all that is written. `write` is called once at most.
fn replace(path: &Path, write: &mut dyn FnMut(&mut Writer) -> io::Result<()>) -> Result<()> {
    if let Ok(there) = fs::metadata(path)
        && !there.is_file()
    {
        let got = if there.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(Error::invalid(path.display().to_string(), "a file to write", got, "give a file's name"));
    }
    let failed = |e| Error::write(path, e);
    let (temporary, file) = claim(path).map_err(failed)?;
    let result = fill(file, write).and_then(|file| {
        disk::rename(&temporary, path)?;
        // Only now, so that nobody takes the file for one that was left.
        drop(file);
        Ok(())
    });
    if result.is_err() {
        // The first failure is the one to report.
        let _ = disk::remove_file(&temporary);
    }
    result.map_err(failed)?;
    disk::sync_folder_of(path).map_err(|source| Error::NotDurable { path: path.to_path_buf(), source })
}

/// Names to try; so many writers of one file at once are not to be expected.
const NAMES: usize = 1000;

/// An empty temporary file that nobody else writes, and its path.
fn claim(path: &Path) -> io::Result<(PathBuf, DiskFile)> {
    for number in 1..NAMES {
        let temporary = temporary(path, number)?;
        if let Some(file) = claim_one(&temporary)? {
            return Ok((temporary, file));
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, format!("{NAMES} temporary files beside it are in use")))
}

/// The temporary file of this path, where nobody else has it.
fn claim_one(temporary: &Path) -> io::Result<Option<DiskFile>> {
    let (mut new, mut there) = (OpenOptions::new(), OpenOptions::new());
    new.read(true).write(true).create_new(true);
    there.read(true).write(true);
    loop {
        let (file, is_new) = match DiskFile::with(temporary, &new) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A link or a pipe that somebody put there is not ours to write to.
                let is_file = fs::symlink_metadata(temporary).map(|found| found.is_file());
                match is_file
                    .and_then(|is_file| is_file.then(|| DiskFile::with(temporary, &there)).transpose())
                {
                    Ok(Some(file)) => (file, false),
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error),
                    Ok(None) | Err(_) => return Ok(None),
                }
            }
            Err(error) => return Err(error),
        };
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Without locks, only what was made just now is certain to be ours.
            Err(TryLockError::Error(_)) => return Ok(is_new.then_some(file)),
        }
        // Between the opening and the lock, another may have renamed it to where it belongs.
        if is_at(&file, temporary)? {
            file.set_len(0)?;
            return Ok(Some(file));
        }
    }
}

/// Whether an open file is the one that a path names.
#[cfg(unix)]
fn is_at(file: &DiskFile, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.file().metadata()?;
    Ok(fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())))
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
fn is_at(_: &DiskFile, _: &Path) -> io::Result<bool> {
    Ok(true)
}

fn temporary(path: &Path, number: usize) -> io::Result<PathBuf> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(if number == 1 { ".tmp".to_owned() } else { format!(".{number}.tmp") });
    Ok(path.with_file_name(hidden))
}

fn fill(file: DiskFile, write: &mut dyn FnMut(&mut Writer) -> io::Result<()>) -> io::Result<DiskFile> {
    let mut writer = BufWriter::new(file);
    let written = write(&mut writer).and_then(|()| writer.flush());
    // What is left in the buffer of a write that failed is not tried again.
    let (file, _) = writer.into_parts();
    written?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faults::{self, Fault};

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(folder.path().join(".a.tmp"), "left by a killed process, and longer").unwrap();
        for text in ["first", "2"] {
            write_atomically(&path, |f| f.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["a"]);
    }

    /// Both are written whole, whoever comes last; so are those of other processes, which lock alike.
    #[test]
    fn two_writers_of_a_path_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, |first| {
            first.write_all(b"first")?;
            write_atomically(&path, |second| second.write_all(b"second")).map_err(io::Error::other)?;
            assert_eq!(fs::read_to_string(&path)?, "second");
            first.write_all(b" and last")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first and last");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, link, other] = ["a", ".a.tmp", "other"].map(|name| folder.path().join(name));
        fs::write(&other, "of somebody else").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        write_atomically(&path, |f| f.write_all(b"ours")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(fs::read_to_string(&other).unwrap(), "of somebody else");
    }

    /// The file is there; only whether it outlives a power cut is not known.
    #[test]
    fn a_folder_that_cannot_be_synced_is_told_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let calls = {
            faults::arm(0, Fault::Killed);
            write_atomically(&path, |f| f.write_all(b"old")).unwrap();
            faults::disarm()
        };
        faults::arm(calls, Fault::Errno(5));
        let error = write_atomically(&path, |f| f.write_all(b"new")).unwrap_err();
        faults::disarm();
        assert_eq!((error.exit_status(), fs::read_to_string(&path).unwrap().as_str()), (1, "new"));
        let message = error.to_string();
        assert!(message.contains("is written") && !message.contains("unchanged"), "{message}");
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        write_atomically(&path, |f| {
            f.write_all(b"new")?;
            f.flush()?;
            assert_eq!(fs::read_to_string(&path)?, "old");
            assert_eq!(fs::read_to_string(folder.path().join(".a.tmp"))?, "new");
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let error = write_atomically(&path, |f| {
            f.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert_eq!(error.exit_status(), 1);
        let message = error.to_string();
        assert!(message.contains("disk full") && message.contains(&path.display().to_string()), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn folders_and_missing_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, part: &str| {
            let message = write_atomically(path, |_| Ok(())).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(folder.path(), "got a folder");
        refused(&folder.path().join("missing/a"), "missing/a");
        refused(Path::new(""), "names no file");
        assert!(names(folder.path()).is_empty());
    }

    /// A socket stands in for every special file: with the check gone, a test must not replace a real device.
    #[cfg(unix)]
    #[test]
    fn special_files_are_refused_and_stay() {
        use std::os::unix::{fs::FileTypeExt, net::UnixListener};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let message = write_atomically(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("got a device"), "{message}");
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    }
}
