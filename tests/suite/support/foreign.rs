//! ONNX files that another program might have written: a denoiser without metadata, under names of its own.

use performer_ddpm_onnx::builder::{Binary, GraphBuilder, ModelInfo, ReshapeDim};
use performer_ddpm_onnx::{Dim, ElementType, Model, Shape};

/// How a foreign denoiser is made.
pub struct Foreign {
    /// The batch's dimension.
    pub batch: Dim,
    /// The type and shape of its timestep.
    pub time: (ElementType, Shape),
    /// Whether it takes a class, of which there are [`CLASSES`].
    pub takes_classes: bool,
}

/// The number of classes.
pub const CLASSES: usize = 3;

impl Default for Foreign {
    fn default() -> Self {
        let time = (ElementType::I64, [Dim::from("batch")].into());
        Foreign { batch: Dim::from("batch"), time, takes_classes: false }
    }
}

impl Foreign {
    /// noise_pred = 0.9 sample + timestep / 1000, and the class's tenths, for images of 3 x 4 x 4; t comes
    /// first.
    pub fn model(&self) -> Model {
        let mut g = GraphBuilder::new("foreign");
        let (element, shape) = &self.time;
        let t = g.input("timestep", *element, shape.clone()).expect("an input");
        let image = [self.batch.clone(), 3.into(), 4.into(), 4.into()];
        let x = g.input("sample", ElementType::F32, image).expect("an input");
        let time =
            if *element == ElementType::F32 { t } else { g.cast(t, ElementType::F32).expect("a cast") };
        let rows =
            if shape.rank() == 0 || shape.dims() == [Dim::Known(1)] { 1.into() } else { self.batch.clone() };
        let column = match rows {
            Dim::Known(n) => {
                g.reshape(time, &[ReshapeDim::To(n), ReshapeDim::To(1), ReshapeDim::To(1), ReshapeDim::To(1)])
            }
            _ => g.unsqueeze(time, &[1, 2, 3]),
        }
        .expect("a column");
        let thousandth = g.scalar(1e-3).expect("a constant");
        let shift = g.binary(Binary::Mul, column, thousandth).expect("a product");
        let factor = g.scalar(0.9).expect("a constant");
        let scaled = g.binary(Binary::Mul, x, factor).expect("a product");
        let mut eps = g.binary(Binary::Add, scaled, shift).expect("a sum");
        if self.takes_classes {
            let classes = g.input("class_labels", ElementType::I64, [self.batch.clone()]).expect("an input");
            let tenths: Vec<f32> = (0..CLASSES).map(|class| class as f32 / 10.0).collect();
            let table = g.initializer_f32("label_emb.weight", &[CLASSES, 1], &tenths).expect("a table");
            let rows = g.gather(table, 0, classes).expect("rows");
            let column = g.unsqueeze(rows, &[2, 3]).expect("a column");
            eps = g.binary(Binary::Add, eps, column).expect("a sum");
        }
        g.output("noise_pred", eps).expect("an output");
        g.into_model(ModelInfo::default()).expect("a model")
    }

    /// What [`Foreign::model`] computes.
    pub fn eps(x: f32, index: usize) -> f32 {
        0.9 * x + index as f32 / 1000.0
    }
}
