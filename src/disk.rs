//! The system's calls on files, each of which a test can make fail.
//!
//! What reads an input or writes an output goes through here. [`faults`] counts the calls of a thread, and
//! lets the n-th of them fail as a disk would, or end all that follow as a kill would.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Faults on purpose, for tests.
pub mod faults {
    use std::cell::Cell;
    use std::io;

    /// What happens at a call, and to those behind it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// The call fails with this error number of the system, and has done nothing.
        Errno(i32),
        /// A read or write is interrupted by a signal once; other calls, which the system repeats by itself,
        /// succeed.
        Interrupted,
        /// A read or write does half of what it was asked to; other calls succeed.
        Short,
        /// This call and all that follow do nothing, as if the process had been killed before it.
        Killed,
        /// A write does half of what it was asked to, and the process is killed.
        KilledWithin,
    }

    #[derive(Clone, Copy)]
    struct State {
        calls: u64,
        at: u64,
        fault: Option<Fault>,
        dead: bool,
    }

    const NONE: State = State { calls: 0, at: 0, fault: None, dead: false };

    thread_local! {
        static STATE: Cell<State> = const { Cell::new(NONE) };
    }

    /// Counts this thread's calls from 1 on, and lets call `at` fail.
    pub fn arm(at: u64, fault: Fault) {
        STATE.set(State { at, fault: Some(fault), ..NONE });
    }

    /// Lets nothing fail any more, and counts from 0; returns the calls that were counted.
    pub fn disarm() -> u64 {
        STATE.replace(NONE).calls
    }

    pub(super) fn killed() -> io::Error {
        io::Error::other("the process was killed")
    }

    /// Counts a call; the fault that is to be felt where it is a read or a write.
    pub(super) fn call() -> io::Result<Option<Fault>> {
        let mut state = STATE.get();
        state.calls += 1;
        let fault = state.fault.filter(|_| state.calls == state.at);
        state.dead |= matches!(fault, Some(Fault::Killed));
        let is_dead = state.dead;
        state.dead |= matches!(fault, Some(Fault::KilledWithin));
        STATE.set(state);
        match fault {
            _ if is_dead => Err(killed()),
            Some(Fault::Errno(number)) => Err(io::Error::from_raw_os_error(number)),
            fault => Ok(fault),
        }
    }
}

use faults::Fault;

/// A file that is read or written.
#[derive(Debug)]
pub struct DiskFile(File);

impl DiskFile {
    /// Opens a file to read.
    pub fn open(path: &Path) -> io::Result<DiskFile> {
        DiskFile::with(path, OpenOptions::new().read(true))
    }

    /// Opens a file as `options` say.
    pub fn with(path: &Path, options: &OpenOptions) -> io::Result<DiskFile> {
        faults::call()?;
        options.open(path).map(DiskFile)
    }

    /// The system's file.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Makes what was written durable.
    pub fn sync_all(&self) -> io::Result<()> {
        faults::call()?;
        self.0.sync_all()
    }

    /// Cuts or extends the file.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        faults::call()?;
        self.0.set_len(len)
    }
}

/// How much of `len` bytes a call with this fault takes.
fn part(fault: Option<Fault>, len: usize) -> io::Result<usize> {
    match fault {
        Some(Fault::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
        Some(Fault::Short | Fault::KilledWithin) => Ok(len.div_ceil(2)),
        _ => Ok(len),
    }
}

impl Read for DiskFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = part(faults::call()?, buffer.len())?;
        self.0.read(&mut buffer[..len])
    }
}

impl Write for DiskFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let fault = faults::call()?;
        let written = self.0.write(&buffer[..part(fault, buffer.len())?])?;
        if fault == Some(Fault::KilledWithin) { Err(faults::killed()) } else { Ok(written) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for DiskFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// A file's bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = DiskFile::open(path)?;
    let mut bytes = Vec::new();
    let len = file.0.metadata().map_or(0, |metadata| metadata.len());
    // A file that claims more than there is memory for is an error, not an abort.
    bytes.try_reserve(usize::try_from(len).unwrap_or(usize::MAX)).map_err(io::Error::other)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file's text.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Makes a folder in one that is there, unless it is there itself. A run's folder that went away while it trains
/// is not made anew.
pub fn create_dir(path: &Path) -> io::Result<()> {
    faults::call()?;
    match fs::create_dir(path) {
        Err(_) if path.is_dir() => Ok(()),
        made => made,
    }
}

/// Makes a folder, and those above it.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    faults::call()?;
    fs::create_dir_all(path)
}

/// Renames a file, over another where there is one.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::call()?;
    fs::rename(from, to)
}

/// Removes a file.
pub fn remove_file(path: &Path) -> io::Result<()> {
    faults::call()?;
    fs::remove_file(path)
}

/// Makes the names of the files beside `path` durable. Other systems than Unix do not open folders.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    faults::call()?;
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes through the layer with one fault; what the write returned, and what is in the file then.
    fn written(at: u64, fault: Fault) -> (io::Result<()>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        faults::arm(at, fault);
        let result = DiskFile::with(&path, OpenOptions::new().create(true).write(true))
            .and_then(|mut file| file.write_all(b"12345678").and_then(|()| file.sync_all()));
        faults::disarm();
        (result, fs::read_to_string(path).unwrap_or_else(|_| "none".to_owned()))
    }

    #[test]
    fn a_call_fails_as_it_was_asked_to() {
        let whole = "12345678".to_owned();
        for (at, fault, ends_well, left) in [
            (1, Fault::Errno(28), false, "none"),
            (2, Fault::Errno(28), false, ""),
            (3, Fault::Errno(5), false, &whole),
            (2, Fault::Interrupted, true, &whole),
            (2, Fault::Short, true, &whole),
            (2, Fault::KilledWithin, false, "1234"),
            (2, Fault::Killed, false, ""),
            (9, Fault::Killed, true, &whole),
        ] {
            let (result, there) = written(at, fault);
            assert_eq!((result.is_ok(), there.as_str()), (ends_well, left), "{fault:?} at {at}");
        }
    }

    #[test]
    fn nothing_works_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "a").unwrap();
        faults::arm(1, Fault::Killed);
        assert!(read(&path).is_err() && remove_file(&path).is_err());
        assert!(rename(&path, &folder.path().join("b")).is_err());
        assert!(create_dir_all(&folder.path().join("c")).is_err() && sync_folder_of(&path).is_err());
        assert_eq!(faults::disarm(), 5);
        assert_eq!(read_to_string(&path).unwrap(), "a");
    }
}
