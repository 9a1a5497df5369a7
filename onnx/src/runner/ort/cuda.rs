//! Finds the CUDA libraries in Python packages, and loads them before ONNX Runtime asks the system for them.

use super::locate;
use crate::error::Attempt;
use std::path::{Path, PathBuf};

/// The libraries that the CUDA provider needs, each after its own dependencies.
const LIBRARIES: [&str; 8] =
    ["nvJitLink", "cudart", "cublasLt", "cublas", "nvrtc", "curand", "cufft", "cudnn"];

/// Loads every CUDA library that is beside ONNX Runtime or in the `nvidia` packages of a Python environment,
/// and returns those that could not be loaded. Libraries that are in neither place are left to the system's
/// loader.
pub(super) fn preload(library: &Path) -> Vec<Attempt> {
    let mut folders: Vec<PathBuf> = library.parent().map(Path::to_path_buf).into_iter().collect();
    for packages in locate::site_packages(library) {
        folders.extend(nvidia_folders(&packages));
    }
    let mut refused = Vec::new();
    for name in LIBRARIES {
        for path in folders.iter().flat_map(|folder| versions(folder, name)) {
            if let Err(error) = ::ort::util::preload_dylib(&path) {
                refused.push(Attempt { place: path.display().to_string(), reason: error.to_string() });
            }
        }
    }
    refused
}

/// `nvidia/*/lib` of a folder of Python packages (`bin` on Windows).
fn nvidia_folders(packages: &Path) -> Vec<PathBuf> {
    let inner = if cfg!(windows) { "bin" } else { "lib" };
    locate::entries(&packages.join("nvidia"))
        .into_iter()
        .map(|component| component.join(inner))
        .filter(|folder| folder.is_dir())
        .collect()
}

fn versions(folder: &Path, name: &str) -> Vec<PathBuf> {
    locate::entries(folder).into_iter().filter(|path| is_version(path, name)).collect()
}

fn is_version(path: &Path, name: &str) -> bool {
    let Some(file) = path.file_name().and_then(|file| file.to_str()) else { return false };
    if cfg!(windows) {
        file.starts_with(&format!("{name}64_")) && file.ends_with(".dll")
    } else {
        file.starts_with(&format!("lib{name}.so."))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::{nvidia_folders, versions};
    use std::fs::{create_dir_all, write};

    #[test]
    fn libraries_of_both_package_layouts_are_found_and_no_others() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for file in [
            "nvidia/cu13/lib/libcublas.so.13",
            "nvidia/cu13/lib/libcublasLt.so.13",
            "nvidia/cudnn/lib/libcudnn.so.9",
            "nvidia/cudnn/lib/libcudnn_ops.so.9",
            "nvidia/cudnn/include/cudnn.h",
        ] {
            let path = root.path().join(file);
            create_dir_all(path.parent().expect("a parent")).expect("a folder");
            write(path, b"").expect("a file");
        }
        let folders = nvidia_folders(root.path());
        assert_eq!(folders.len(), 2);
        let found = |name: &str| -> Vec<String> {
            folders
                .iter()
                .flat_map(|folder| versions(folder, name))
                .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(found("cublas"), ["libcublas.so.13"]);
        assert_eq!(found("cudnn"), ["libcudnn.so.9"]);
        assert!(found("cufft").is_empty());
    }
}
