//! What can be said of ONNX Runtime.

use super::Device;
use std::path::PathBuf;

/// How to find and use ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrtOptions {
    /// The library, or the folder that holds it; if it is given, no other is tried. Otherwise, in this order:
    /// `ORT_DYLIB_PATH`, a `lib` folder beside the executable, the active Python environment's `onnxruntime`
    /// package, the system's loader.
    pub library: Option<PathBuf>,
    /// Threads within an operator on the CPU; `None` leaves the choice to the runtime.
    pub threads: Option<usize>,
    /// The device. One that cannot be used is an error, never replaced by another.
    pub device: Device,
    /// Whether a GPU may compute products in TF32 (about three decimal digits, faster).
    pub tf32: bool,
    /// Whether [`Runner::step_loop`](super::Runner::step_loop) replays its steps as a CUDA graph: shapes must be fixed and the model
    /// free of control flow.
    pub cuda_graph: bool,
    /// Whether [`Description::placement`](super::Description::placement) is filled in.
    pub placement: bool,
    /// Whether to ask for algorithms whose results have the same bits every time, and on a GPU for
    /// convolutions by rule, not by which one a trial finds fastest. A GPU may compute other bits all the
    /// same.
    pub repeatable: bool,
}
