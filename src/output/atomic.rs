//! Files that are there whole or not at all.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file so that at every moment, a crash or a power cut included, `path` holds either what it held
/// before or everything that `write` wrote: into `.NAME.tmp` in the same folder, synced, then renamed, and
/// the folder synced. A file left under the temporary name by a killed process is overwritten.
///
/// # Errors
/// [`Error::Write`] with `path` where the system refuses a step or `write` fails; the temporary file is then
/// gone and `path` unchanged. [`Error::Invalid`] where `path` is a folder or a device, which a rename would
/// replace.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    if let Ok(there) = fs::metadata(path)
        && !there.is_file()
    {
        let got = if there.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(Error::invalid(path.display().to_string(), "a file to write", got, "give a file's name"));
    }
    let failed = |e| Error::write(path, e);
    let temporary = temporary(path).map_err(failed)?;
    let result = fill(&temporary, write).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The first failure is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    result.and_then(|()| sync_folder(path)).map_err(failed)
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(path.with_file_name(hidden))
}

fn fill(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    write(&mut writer)?;
    writer.flush()?;
    writer.get_ref().sync_all()
}

/// Makes the rename itself durable. Other systems than Unix do not open folders.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
