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
mod axis;
mod chart;
mod font;
mod grid;
mod lock;
mod npy;
mod picture;
mod plot;

pub use atomic::{Writer, write_atomically};
pub use axis::Scale;
pub use chart::{Chart, ChartAxis, Corner, Look, Series};
pub use grid::{a_row_for_each, byte_from_unit, grid, write_gif, write_png};
pub use lock::FolderLock;
pub use npy::{read_npy, write_npy};
pub use picture::write_picture;
pub use plot::{loss_curve, write_loss_curve};
