//! ONNX Runtime's messages as errors that say what to do.

use crate::error::{Attempt, Error};
use crate::runner::{Backend, Device};

/// The cause of a message of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    OutOfMemory,
    NoProvider,
    MissingLibrary,
    NoDevice,
    OldDriver,
    Other,
}

/// Parts of messages of ONNX Runtime and of the CUDA runtime, with their causes; the first one that occurs
/// decides.
const WORDS: [(&str, Cause); 15] = [
    ("out of memory", Cause::OutOfMemory),
    ("Failed to allocate memory", Cause::OutOfMemory),
    ("ALLOC_FAILED", Cause::OutOfMemory),
    ("bad_alloc", Cause::OutOfMemory),
    ("libcuda.so", Cause::NoDevice),
    ("is not enabled in this build", Cause::NoProvider),
    ("cannot open shared object file", Cause::MissingLibrary),
    ("Failed to load library", Cause::MissingLibrary),
    ("LoadLibrary failed", Cause::MissingLibrary),
    ("driver version is insufficient", Cause::OldDriver),
    ("unsupported display driver", Cause::OldDriver),
    ("no CUDA-capable device", Cause::NoDevice),
    ("invalid device ordinal", Cause::NoDevice),
    ("no kernel image is available", Cause::NoDevice),
    ("CUDA failure 100", Cause::NoDevice),
];

/// The error for a message that ONNX Runtime gave while loading or running on a device. `refused` are the
/// CUDA libraries that were found but could not be loaded.
pub(super) fn explain(device: Device, action: &'static str, message: &str, refused: &[Attempt]) -> Error {
    let reason = message.trim().trim_end_matches('.').to_owned();
    let cause =
        WORDS.iter().find(|(words, _)| reason.contains(words)).map_or(Cause::Other, |(_, cause)| *cause);
    let unusable = |help: String| Error::Device { device: device.to_string(), reason: reason.clone(), help };
    match (cause, device) {
        (Cause::OutOfMemory, _) => {
            Error::OutOfMemory { device: device.to_string(), bytes: requested(&reason), reason }
        }
        (Cause::NoProvider, Device::Cuda(_)) => unusable(
            "this library has no CUDA; install the build that has: pip install onnxruntime-gpu".to_owned(),
        ),
        (Cause::MissingLibrary, Device::Cuda(_)) => {
            let library = missing_library(&reason).unwrap_or("a CUDA library");
            let mut help = format!(
                "{library} was not found: pip install \"onnxruntime-gpu[cuda,cudnn]\" brings the CUDA \
                 libraries, or add their folder to the loader's path (LD_LIBRARY_PATH)"
            );
            for attempt in refused {
                help.push_str(&format!("; {attempt}"));
            }
            unusable(help)
        }
        (Cause::NoDevice, Device::Cuda(_)) => {
            unusable("check the index and that nvidia-smi lists a GPU that this build supports".to_owned())
        }
        (Cause::OldDriver, Device::Cuda(_)) => {
            unusable("update the NVIDIA driver, or install a build for an older CUDA".to_owned())
        }
        _ => Error::Run { backend: Backend::OnnxRuntime.name(), action, reason },
    }
}

/// The file that the loader did not find: the word before ": cannot open shared object file".
fn missing_library(message: &str) -> Option<&str> {
    let (before, _) = message.split_once(": cannot open shared object file")?;
    before.rsplit([' ', '/', ':']).next().filter(|name| name.contains(".so"))
}

/// The size in "requested buffer of size 123".
fn requested(message: &str) -> Option<u64> {
    let (_, after) = message.split_once("buffer of size ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::explain;
    use crate::error::{Attempt, Error};
    use crate::runner::Device;

    const GPU: Device = Device::Cuda(0);

    #[test]
    fn a_library_without_cuda_names_the_package_that_has_it() {
        let error = explain(GPU, "load", "CUDA execution provider is not enabled in this build. ", &[]);
        assert!(matches!(&error, Error::Device { .. }));
        let text = error.to_string();
        assert!(text.starts_with("cuda:0 cannot be used"), "{text}");
        assert!(text.contains("pip install onnxruntime-gpu"), "{text}");
    }

    #[test]
    fn a_missing_cuda_library_is_named_with_those_that_refused() {
        let message = "Failed to load library libonnxruntime_providers_cuda.so with error: \
                       libcudnn.so.9: cannot open shared object file: No such file or directory";
        let refused = Attempt { place: "nvidia/libcudnn.so.9".to_owned(), reason: "wrong class".to_owned() };
        let text = explain(GPU, "load", message, &[refused]).to_string();
        assert!(text.contains("; libcudnn.so.9 was not found"), "{text}");
        assert!(text.contains("; nvidia/libcudnn.so.9: wrong class"), "{text}");
    }

    #[test]
    fn devices_and_drivers_are_told_apart() {
        let index = explain(Device::Cuda(7), "load", "CUDA failure 101: invalid device ordinal ; GPU=7", &[]);
        assert!(index.to_string().contains("check the index"), "{index}");
        let text = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version";
        assert!(explain(GPU, "load", text, &[]).to_string().contains("update the NVIDIA driver"));
    }

    #[test]
    fn memory_is_told_with_its_size() {
        let message = "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 3221225472";
        let error = explain(GPU, "run", message, &[]);
        assert!(matches!(error, Error::OutOfMemory { bytes: Some(3_221_225_472), .. }), "{error}");
        assert!(error.to_string().contains("3072 MiB"), "{error}");
        assert!(matches!(
            explain(GPU, "run", "CUDA failure 2: out of memory", &[]),
            Error::OutOfMemory { bytes: None, .. }
        ));
    }

    #[test]
    fn anything_else_keeps_the_runtimes_words() {
        let error = explain(Device::Cpu, "load", "This is an invalid model.", &[]);
        assert!(matches!(error, Error::Run { action: "load", .. }));
        assert!(error.to_string().ends_with("This is an invalid model"), "{error}");
    }
}
