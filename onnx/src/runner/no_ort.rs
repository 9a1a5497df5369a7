//! ONNX Runtime where no library can be loaded, as in a browser: whatever asks for it is told so.

pub use super::ort_options::OrtOptions;

use super::{Backend, Capabilities, Description, LoopSpec, Port, Runner, StepLoop};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::types::Tensor;
use std::convert::Infallible;

/// A model loaded in ONNX Runtime, of which there is none here.
pub struct OrtRunner(Infallible);

/// A [`StepLoop`] with the model that it runs, of which there is none here.
pub struct OrtLoop(Infallible);

impl OrtRunner {
    /// Refuses.
    ///
    /// # Errors
    /// [`Error::NotBuiltIn`].
    pub fn load(_: &Model, _: &OrtOptions) -> Result<Self> {
        Err(Error::NotBuiltIn {
            backend: Backend::OnnxRuntime.name(),
            feature: "ort",
            help: "WebAssembly loads no libraries".to_owned(),
        })
    }

    /// None is there to be turned.
    ///
    /// # Errors
    /// None.
    pub fn into_step_loop(self, _: &LoopSpec<'_>) -> Result<OrtLoop> {
        match self.0 {}
    }
}

impl Runner for OrtRunner {
    fn describe(&self) -> &Description {
        match self.0 {}
    }

    fn capabilities(&self) -> Capabilities {
        match self.0 {}
    }

    fn inputs(&self) -> &[Port] {
        match self.0 {}
    }

    fn outputs(&self) -> &[Port] {
        match self.0 {}
    }

    fn run(&mut self, _: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        match self.0 {}
    }

    fn step_loop<'a>(&'a mut self, _: &LoopSpec<'_>) -> Result<Box<dyn StepLoop + 'a>> {
        match self.0 {}
    }
}

impl OrtLoop {
    /// None is there to be described.
    pub fn describe(&self) -> &Description {
        match self.0 {}
    }

    /// None is there to begin again.
    ///
    /// # Errors
    /// None.
    pub fn restart(&mut self, _: &LoopSpec<'_>) -> Result<()> {
        match self.0 {}
    }
}

impl StepLoop for OrtLoop {
    fn set(&mut self, _: &str, _: &Tensor) -> Result<()> {
        match self.0 {}
    }

    fn step(&mut self) -> Result<()> {
        match self.0 {}
    }

    fn state(&mut self, _: &str) -> Result<Tensor> {
        match self.0 {}
    }

    fn output(&mut self, _: &str) -> Result<Tensor> {
        match self.0 {}
    }
}
