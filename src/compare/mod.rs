//! FAVOR+ compared with softmax attention: the same network trained with each for the same time, training at
//! full resolution, the cost of the layer, the error of the random features, and softmax weights run with
//! FAVOR+.
//!
//! A comparison has a folder. Each finished stage is recorded in `comparison.json`, and runs are ordinary run
//! folders with checkpoints, so that a stopped comparison can be continued. The report is a function of that
//! record and of the sample grids.

mod approximation;
mod budget;
mod comparison;
mod context;
mod conversion;
mod cost;
mod full_resolution;
mod json;
mod measure;
mod plan;
pub mod report;
mod runs;
mod samples;
mod sizes;
mod store;
mod training;
mod variant;

pub use approximation::{Approximation, ApproximationPoint, Slope};
pub use budget::Budget;
pub use comparison::Comparison;
pub use context::{Event, PeakMib};
pub use conversion::{BesideSoftmax, Conversion, FineTuned, InPlace};
pub use cost::{BreakEven, Cost, CostPoint, Crossover};
pub use full_resolution::FullResolutionRun;
pub use plan::{Part, Plan};
pub use runs::{Quality, VariantRun};
pub use samples::{FeatureSource, Features, SampleQuality, SampleStudy};
pub use sizes::{ApproximationSizes, ConversionSizes, CostSizes, FullResolution, Measuring};
pub use store::{DataNote, Findings};
pub use training::{CurvePoint, Training};
