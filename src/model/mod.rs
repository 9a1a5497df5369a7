//! The network: its graph, its parameters and what executes them.

pub mod clock;
mod condition;
mod engine;
mod exec;
mod gradient_tree;
pub mod graph;
mod interrupt;
pub mod params;
mod plan;
pub mod report;
pub mod unet;

pub use condition::Condition;
pub(crate) use engine::shard_count;
pub use engine::{Engine, Example, Gradient};
pub(crate) use exec::DropoutKey;
pub(crate) use gradient_tree::{Node, Tree, roots};
pub use interrupt::Interrupt;

use crate::config::UnetConfig;
use crate::equations::projection::Projection;
use crate::error::{Error, Result};
use crate::machine;
use crate::real::Real;
use crate::rng::{Stream, fill_normal, rng};
use graph::Graph;
use params::ParamKind;
use rand::RngExt;
use std::sync::Arc;

/// A network with its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Model<T> {
    /// What it was built from.
    pub config: UnetConfig,
    /// Its operations.
    pub graph: Arc<Graph>,
    /// Every parameter, in the order and layout of `graph.params`.
    pub weights: Vec<T>,
    /// Every FAVOR+ projection, \[m, d\] row-major, in the order of `graph.projections`.
    pub projections: Vec<Vec<T>>,
}

impl<T: Real> Model<T> {
    /// A network as Ho et al. (2020) start it: weights uniform with variance 2 / (fan_in + fan_out), scales
    /// one, biases zero, classes' vectors normal with variance 1, and zero for the last convolution of each
    /// residual block, the attention's output projection and the network's last convolution.
    ///
    /// # Errors
    /// What [`UnetConfig::validate`] finds.
    pub fn new(config: &UnetConfig, seed: u64) -> Result<Model<T>> {
        let graph = unet::build(config)?;
        let mut weights = machine::filled("the network's parameters", &[graph.params.total()], T::zero())?;
        for (i, param) in graph.params.iter().enumerate() {
            let part = &mut weights[param.range()];
            match param.kind {
                ParamKind::Conv { kernel, c_in, c_out } => {
                    if !param.starts_at_zero {
                        fill_uniform(part, kernel * kernel * (c_in + c_out), seed, i);
                    }
                }
                ParamKind::Linear { c_in, c_out } => {
                    if !param.starts_at_zero {
                        fill_uniform(part, c_in + c_out, seed, i);
                    }
                }
                ParamKind::Embedding { .. } => {
                    fill_normal(&mut rng(seed, Stream::Init, 0, i as u64), part);
                }
                ParamKind::Bias { .. } => {}
                ParamKind::Scale { .. } => part.fill(T::one()),
            }
        }
        let mut model =
            Model { config: config.clone(), graph: Arc::new(graph), weights, projections: Vec::new() };
        model.draw_projections(seed, 0)?;
        Ok(model)
    }

    /// Draws every FAVOR+ projection afresh; `redraw` counts the draws of a run, from 0.
    ///
    /// # Errors
    /// Those of the projection's sizes, which a validated configuration does not have.
    pub fn draw_projections(&mut self, seed: u64, redraw: u64) -> Result<()> {
        let favor = &self.config.favor;
        let projection = Projection::from(favor);
        self.projections.clear();
        for (i, spec) in self.graph.projections.iter().enumerate() {
            let mut rng = rng(seed, Stream::Projection, redraw, i as u64);
            let w = projection.draw(spec.features, spec.dim, &mut rng)?;
            self.projections.push(w.iter().map(|x| T::of(*x)).collect());
        }
        Ok(())
    }

    /// The same weights in a network that is this one but for its attention, with projections drawn afresh;
    /// `redraw` counts the draws.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the networks have other parameters than each other, which another attention
    /// never causes.
    pub fn with_attention(&self, config: &UnetConfig, seed: u64, redraw: u64) -> Result<Model<T>> {
        let graph = unet::build(config)?;
        let parameters = |graph: &Graph| {
            graph.params.iter().map(|param| (param.name.clone(), param.kind)).collect::<Vec<_>>()
        };
        if parameters(&graph) != parameters(&self.graph) {
            let expected = "this network's parameters";
            return Err(Error::invalid("the network with another attention", expected, "others", ""));
        }
        let mut model = Model {
            config: config.clone(),
            graph: Arc::new(graph),
            weights: self.weights.clone(),
            projections: Vec::new(),
        };
        model.draw_projections(seed, redraw)?;
        Ok(model)
    }

    /// Checks that there are as many numbers as the network has places for them.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the weights or the projection that are not.
    pub fn check(&self) -> Result<()> {
        let whole = |what: &str, wanted: usize, got: usize| match wanted == got {
            true => Ok(()),
            false => Err(Error::invalid(what, format!("{wanted}, as the network has"), got.to_string(), "")),
        };
        whole("`Model::weights`", self.graph.params.total(), self.weights.len())?;
        whole("`Model::projections`", self.graph.projections.len(), self.projections.len())?;
        for (spec, w) in self.graph.projections.iter().zip(&self.projections) {
            whole(&spec.name, spec.features * spec.dim, w.len())?;
        }
        Ok(())
    }

    /// The same network with its numbers in another precision.
    pub fn cast<U: Real>(&self) -> Model<U> {
        let cast = |x: &Vec<T>| x.iter().map(|x| U::of(x.f64())).collect();
        Model {
            config: self.config.clone(),
            graph: self.graph.clone(),
            weights: cast(&self.weights),
            projections: self.projections.iter().map(cast).collect(),
        }
    }

    /// The same network for images of another height and width. All of its numbers stay what they are:
    /// convolutions, normalisations and attention without positions are for images of any size.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size that the network's levels cannot halve.
    pub fn resized(&self, size: [usize; 2]) -> Result<Model<T>> {
        let config = UnetConfig { sample_size: size, ..self.config.clone() };
        let graph = unet::build(&config).map_err(|error| match error {
            Error::Invalid { expected, got, .. } => {
                Error::invalid("the canvas", expected, got, "choose another size")
            }
            other => other,
        })?;
        let graph = graph.into();
        let (weights, projections) = (self.weights.clone(), self.projections.clone());
        Ok(Model { config, graph, weights, projections })
    }

    /// Elements of one x_t.
    pub fn input_len(&self) -> usize {
        self.graph.shape(self.graph.input).len()
    }

    /// Elements of one eps_theta.
    pub fn output_len(&self) -> usize {
        self.graph.shape(self.graph.output).len()
    }
}

/// Uniform with variance 1 / ((fan_in + fan_out) / 2): "variance scaling, fan_avg, uniform" of Ho et al.'s
/// code.
fn fill_uniform<T: Real>(weights: &mut [T], fans: usize, seed: u64, index: usize) {
    let limit = (6.0 / fans as f64).sqrt();
    let mut rng = rng(seed, Stream::Init, 0, index as u64);
    for w in weights {
        *w = T::of(limit * (2.0 * rng.random::<f64>() - 1.0));
    }
}
