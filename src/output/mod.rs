//! What runs and samples leave behind: arrays for NumPy, grids of images, animations, the loss curve and
//! other plots, each written so that a reader never finds half a file.

mod atomic;
mod axis;
mod chart;
mod font;
mod grid;
mod npy;
mod plot;

pub use atomic::write_atomically;
pub use axis::Scale;
pub use chart::{Chart, ChartAxis, Corner, Look, Series};
pub use grid::{byte_from_unit, grid, write_gif, write_png};
pub use npy::{read_npy, write_npy};
pub use plot::{loss_curve, write_loss_curve};
