//! Looks for ONNX Runtime's library.

use crate::error::{Attempt, Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place to look, in the order of [`Search::find`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Variable,
    BesideExecutable,
    VirtualEnv,
    Conda,
    Python,
    System,
}

const PLACES: [Place; 6] =
    [Place::Variable, Place::BesideExecutable, Place::VirtualEnv, Place::Conda, Place::Python, Place::System];

/// Where to look.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// If it is given, no other place is searched.
    pub(super) explicit: Option<PathBuf>,
    /// `ORT_DYLIB_PATH`.
    pub(super) variable: Option<OsString>,
    /// The executable's folder.
    pub(super) executable: Option<PathBuf>,
    /// `VIRTUAL_ENV`.
    pub(super) virtual_env: Option<PathBuf>,
    /// `CONDA_PREFIX`.
    pub(super) conda: Option<PathBuf>,
    /// The Python interpreter to ask.
    pub(super) python: Option<OsString>,
    /// Whether to try the system's loader with the library's bare name.
    pub(super) system: bool,
}

impl Search {
    pub(super) fn from_environment(explicit: Option<&Path>) -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Search {
            explicit: explicit.map(Path::to_path_buf),
            variable: std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty()),
            executable: std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf)),
            virtual_env: folder("VIRTUAL_ENV"),
            conda: folder("CONDA_PREFIX"),
            python: Some(if cfg!(windows) { "python".into() } else { "python3".into() }),
            system: true,
        }
    }

    /// The first library that `load` accepts.
    ///
    /// # Errors
    /// [`Error::RuntimeMissing`] with every attempt.
    pub(super) fn find<T>(
        &self,
        mut load: impl FnMut(&Path) -> std::result::Result<T, String>,
    ) -> Result<(T, PathBuf)> {
        let mut tried = Vec::new();
        if let Some(explicit) = &self.explicit {
            if let Some(found) = first(&self.named(explicit), &mut load, &mut tried) {
                return Ok(found);
            }
            return Err(Error::RuntimeMissing { tried });
        }
        for place in PLACES {
            match self.candidates(place) {
                Ok(paths) => {
                    if let Some(found) = first(&paths, &mut load, &mut tried) {
                        return Ok(found);
                    }
                }
                Err(attempt) => tried.push(attempt),
            }
        }
        Err(Error::RuntimeMissing { tried })
    }

    /// The libraries in a place, or the reason why there is none to try.
    fn candidates(&self, place: Place) -> std::result::Result<Vec<PathBuf>, Attempt> {
        let unset =
            |place: &str, reason: &str| Attempt { place: place.to_owned(), reason: reason.to_owned() };
        match place {
            Place::Variable => match &self.variable {
                Some(path) => Ok(self.named(Path::new(path))),
                None => Err(unset("ORT_DYLIB_PATH", "not set")),
            },
            Place::BesideExecutable => match &self.executable {
                Some(folder) => libraries_or(&folder.join("lib")),
                None => Err(unset("lib beside the executable", "the executable's place is unknown")),
            },
            Place::VirtualEnv => match &self.virtual_env {
                Some(prefix) => packaged(prefix),
                None => Err(unset("VIRTUAL_ENV", "not set")),
            },
            Place::Conda => match &self.conda {
                Some(prefix) => packaged(prefix),
                None => Err(unset("CONDA_PREFIX", "not set")),
            },
            Place::Python => match &self.python {
                Some(python) => ask_python(python),
                None => Err(unset("Python", "no interpreter")),
            },
            Place::System if self.system => Ok(system_names().into_iter().map(PathBuf::from).collect()),
            Place::System => Err(unset("the system's loader", "not asked")),
        }
    }

    /// A path that a user named: a library, or a folder of them.
    fn named(&self, path: &Path) -> Vec<PathBuf> {
        let inside = if path.is_dir() { libraries(path) } else { Vec::new() };
        if inside.is_empty() { vec![path.to_path_buf()] } else { inside }
    }
}

fn first<T>(
    paths: &[PathBuf],
    load: &mut impl FnMut(&Path) -> std::result::Result<T, String>,
    tried: &mut Vec<Attempt>,
) -> Option<(T, PathBuf)> {
    for path in paths {
        let bare = path.components().count() == 1;
        // Make a relative path absolute: the loader would take it for a name to search for.
        let absolute = if bare && !path.exists() { path.clone() } else { absolute(path) };
        let result = if absolute.is_absolute() && !absolute.exists() {
            Err("no such file".to_owned())
        } else if absolute.is_dir() {
            Err("a folder without the library in it".to_owned())
        } else {
            load(&absolute)
        };
        match result {
            Ok(loaded) => return Some((loaded, absolute)),
            Err(reason) => tried.push(Attempt { place: path.display().to_string(), reason }),
        }
    }
    None
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The library's file name without its version, and the names that the system's loader is asked for.
fn system_names() -> Vec<String> {
    let plain = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    if cfg!(target_os = "linux") { vec![plain.clone(), format!("{plain}.1")] } else { vec![plain] }
}

/// ONNX Runtime's libraries in a folder, the newest version first. Python packages carry only the versioned
/// name.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        entries(folder).into_iter().filter(|path| is_library(path) && path.is_file()).collect();
    found.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
    found
}

fn is_library(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let stem = format!("{}onnxruntime", std::env::consts::DLL_PREFIX);
    match name.strip_prefix(&stem) {
        Some(rest) if cfg!(target_os = "linux") => rest == ".so" || rest.starts_with(".so."),
        Some(rest) => rest.ends_with(std::env::consts::DLL_SUFFIX) && !rest.starts_with('_'),
        None => false,
    }
}

fn libraries_or(folder: &Path) -> std::result::Result<Vec<PathBuf>, Attempt> {
    let found = libraries(folder);
    if found.is_empty() {
        let reason = if folder.is_dir() { "no ONNX Runtime library in it" } else { "no such folder" };
        return Err(Attempt { place: folder.display().to_string(), reason: reason.to_owned() });
    }
    Ok(found)
}

/// Why an old package cannot be used: its library is a part of its Python module.
const NO_LIBRARY: &str = "its onnxruntime package has no library to load; from 1.19 on it has";

/// The libraries of the `onnxruntime` package of a Python environment.
fn packaged(prefix: &Path) -> std::result::Result<Vec<PathBuf>, Attempt> {
    let folders: Vec<PathBuf> = packages_of(prefix)
        .iter()
        .map(|packages| packages.join("onnxruntime").join("capi"))
        .filter(|folder| folder.is_dir())
        .collect();
    let found: Vec<PathBuf> = folders.iter().flat_map(|folder| libraries(folder)).collect();
    if found.is_empty() {
        let reason =
            if folders.is_empty() { "no onnxruntime package in its site-packages" } else { NO_LIBRARY };
        return Err(Attempt { place: prefix.display().to_string(), reason: reason.to_owned() });
    }
    Ok(found)
}

/// The `site-packages` folders of a Python environment.
fn packages_of(prefix: &Path) -> Vec<PathBuf> {
    let folders = if cfg!(windows) { vec![prefix.join("Lib")] } else { entries(&prefix.join("lib")) };
    folders.into_iter().map(|folder| folder.join("site-packages")).filter(|path| path.is_dir()).collect()
}

/// Asks the interpreter on the path where the package is, without importing it.
fn ask_python(python: &OsString) -> std::result::Result<Vec<PathBuf>, Attempt> {
    let attempt = |reason: String| Attempt { place: python.to_string_lossy().into_owned(), reason };
    let script = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
                  print(list(s.submodule_search_locations)[0] if s else '')";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .map_err(|error| attempt(format!("cannot be run ({error})")))?;
    let package = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if package.is_empty() {
        return Err(attempt("has no onnxruntime package".to_owned()));
    }
    let found = libraries(&Path::new(&package).join("capi"));
    if found.is_empty() { Err(attempt(NO_LIBRARY.to_owned())) } else { Ok(found) }
}

/// The folders of Python packages that may hold CUDA libraries: the one that the library lies in, and the
/// environments'.
pub(super) fn site_packages(library: &Path) -> Vec<PathBuf> {
    let search = Search::from_environment(None);
    // site-packages/onnxruntime/capi/LIBRARY
    let mut found: Vec<PathBuf> = library.ancestors().nth(3).map(Path::to_path_buf).into_iter().collect();
    for prefix in [search.virtual_env, search.conda].into_iter().flatten() {
        found.extend(packages_of(&prefix));
    }
    found.dedup();
    found
}

/// The runtime's version: the file's name has all of it, the library itself reports only a part.
pub(super) fn version(library: &Path) -> String {
    let target = std::fs::canonicalize(library).unwrap_or_else(|_| library.to_path_buf());
    let named = numbers(&target);
    if named.len() >= 2 {
        return named.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    }
    ::ort::util::probe(library).map_or_else(|| "1".to_owned(), |minor| format!("1.{minor}"))
}

/// The second number of a version of ONNX Runtime; the first is 1.
pub(super) fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// The numbers of a versioned library's name: `libonnxruntime.so.1.17.3` gives 1, 17, 3.
fn numbers(path: &Path) -> Vec<u32> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// Whether a path that a user named is the library that is loaded.
pub(super) fn same_library(named: &Path, loaded: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| absolute(path));
    let (named, loaded) = (real(named), real(loaded));
    named == loaded || loaded.parent() == Some(named.as_path())
}

/// The entries of a folder, sorted; none if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
        .unwrap_or_default();
    found.sort();
    found
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
