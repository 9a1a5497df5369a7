//! Output files: arrays for NumPy, grids of images, animations, the loss curve and other plots. Each is
//! written so that a reader never finds half a file.
//!
//! ```
//! use performer_ddpm::output::{write_npy, write_png};
//!
//! # fn main() -> performer_ddpm::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let folder = folder.path();
//! // Images [n, h, w, c] in [-1, 1], as samplers return them.
//! let images = ndarray::Array4::<f32>::zeros((9, 8, 8, 1));
//! write_png(&folder.join("grid.png"), images.view(), Some(3))?;
//! // Arrays go out as [n, c, h, w].
//! write_npy(&folder.join("images.npy"), images.view().permuted_axes([0, 3, 1, 2]))?;
//! # Ok(())
//! # }
//! ```

mod atomic;
#[cfg(not(target_family = "wasm"))]
mod axis;
#[cfg(not(target_family = "wasm"))]
mod chart;
#[cfg(not(target_family = "wasm"))]
mod events;
#[cfg(not(target_family = "wasm"))]
mod font;
mod grid;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod html;
mod lock;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod math;
mod npy;
mod picture;
#[cfg(not(target_family = "wasm"))]
mod plot;
#[cfg(not(target_family = "wasm"))]
pub(crate) mod table;

pub use atomic::{Writer, write_atomically};
#[cfg(not(target_family = "wasm"))]
pub use axis::Scale;
#[cfg(not(target_family = "wasm"))]
pub use chart::{Chart, ChartAxis, Corner, Look, Series};
#[cfg(not(target_family = "wasm"))]
pub(crate) use events::Events;
pub use grid::{a_row_for_each, byte_from_unit, grid, write_gif, write_png};
#[cfg(not(target_family = "wasm"))]
pub(crate) use grid::{grid_columns, tile};
pub use lock::FolderLock;
pub use npy::{read_npy, write_npy};
pub use picture::write_picture;
#[cfg(not(target_family = "wasm"))]
pub(crate) use plot::{extremes, smoothed};
#[cfg(not(target_family = "wasm"))]
pub use plot::{loss_curve, write_loss_curve};
