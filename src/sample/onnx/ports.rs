//! Finds the roles of a graph's inputs: by name in our own files, by type and rank in others.

use super::frame::Frame;
use crate::equations::Timestep;
use crate::error::{Error, Result};
use crate::machine;
use performer_ddpm_onnx::model::{Port, Summary};
use performer_ddpm_onnx::proto::NodeProto;
use performer_ddpm_onnx::{Dim, ElementType, Model, Tensor};

/// A denoiser's inputs and output: eps = f(x, t), or f(x, t, y) with the classes y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DenoiserPorts {
    pub(super) x: String,
    pub(super) t: String,
    pub(super) y: Option<String>,
    pub(super) eps: String,
    /// Whether the output has twice an image's channels, the second half being the variance.
    pub(super) has_variance: bool,
    time: Time,
    element: ElementType,
}

/// How many timesteps a denoiser takes for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    /// One without a dimension.
    Scalar,
    /// One in a list.
    One,
    /// One for every image.
    Each,
}

impl DenoiserPorts {
    /// The index of `t` in the form that the graph takes for a batch of `n`.
    pub(super) fn time(&self, t: Timestep, n: usize) -> Result<Tensor> {
        let (shape, count) = match self.time {
            Time::Scalar => (vec![], 1),
            Time::One => (vec![1], 1),
            Time::Each => (vec![n], n),
        };
        Ok(match self.element {
            ElementType::F32 => Tensor::f32(shape, vec![t.index() as f32; count])?,
            _ => Tensor::i64(shape, vec![t.index() as i64; count])?,
        })
    }
}

/// The roles of a denoiser's inputs: x is the one of type f32 and rank 4, t another, of rank 0 or 1, and y
/// the classes, where there are three: the one whose name says so, as `y`, `label` and `class_labels` do.
///
/// # Errors
/// [`Error::Invalid`] for inputs or outputs that cannot be a denoiser's, listing them.
pub(super) fn denoiser(
    origin: &str,
    summary: &Summary,
    takes_classes: bool,
) -> Result<(DenoiserPorts, Frame)> {
    let refuse = || {
        Error::invalid(
            format!("{origin}, inputs"),
            "a denoiser's: x_t f32 [N, C, H, W], the timestep's index, i64 or f32 [N], [1] or [], and at most the \
             classes, i64 [N], named y, label or class_labels",
            listed(&summary.inputs),
            "export a graph that predicts eps from them alone",
        )
    };
    let dims = |port: &Port| port.shape.as_ref().map(|shape| shape.dims().to_vec());
    let is_image = |port: &Port| port.element == ElementType::F32 && dims(port).is_some_and(|d| d.len() == 4);
    let has_three = summary.inputs.len() == 3;
    let is_class = |port: &&Port| {
        let name = port.name.to_lowercase();
        let says_so = name == "y" || name.contains("label") || name.contains("class");
        has_three && says_so && port.element == ElementType::I64 && dims(port).is_some_and(|d| d.len() == 1)
    };
    let (y, others): (Vec<&Port>, Vec<&Port>) = summary.inputs.iter().partition(is_class);
    let y = match y[..] {
        [] if !takes_classes => None,
        [y] => Some(y.name.clone()),
        _ => return Err(refuse()),
    };
    let (x, t) = match others[..] {
        [a, b] if is_image(a) && !is_image(b) => (a, b),
        [a, b] if is_image(b) && !is_image(a) => (b, a),
        _ => return Err(refuse()),
    };
    if !matches!(t.element, ElementType::I64 | ElementType::F32) {
        return Err(refuse());
    }
    let frame = frame(origin, x)?;
    let time = match dims(t).as_deref() {
        Some([]) => Time::Scalar,
        Some([Dim::Known(1)]) => Time::One,
        Some([_]) => Time::Each,
        _ => return Err(refuse()),
    };
    let [h, w, c] = frame.image;
    // A length that the file leaves open is checked when the graph has run.
    let may_be = |dim: &Dim, length: usize| dim.known().is_none_or(|known| known == length);
    let of_channels = |c: usize| {
        summary.outputs.iter().find(|port| {
            let fits = |d: Vec<Dim>| may_be(&d[1], c) && may_be(&d[2], h) && may_be(&d[3], w);
            is_image(port) && dims(port).is_some_and(fits)
        })
    };
    let prediction = of_channels(c).map(|port| (port, false));
    let (eps, has_variance) = prediction.or_else(|| Some((of_channels(2 * c)?, true))).ok_or_else(|| {
        Error::invalid(
            format!("{origin}, outputs"),
            format!("the prediction, f32 [N, {c}, {h}, {w}] like {}, or with its variance", x.name),
            listed(&summary.outputs),
            "a network that predicts something else cannot be sampled from",
        )
    })?;
    let ports = DenoiserPorts {
        x: x.name.clone(),
        t: t.name.clone(),
        y,
        eps: eps.name.clone(),
        has_variance,
        time,
        element: t.element,
    };
    Ok((ports, frame))
}

/// The rows of the table that an input chooses from: the number of classes of an embedding. `None` where the
/// graph has no such table.
pub(super) fn rows_chosen_by(model: &Model, input: &str) -> Option<usize> {
    let graph = model.proto().graph.as_ref()?;
    let mut names = vec![input];
    // What only changes the type or the shape of the indices is still they.
    for node in &graph.node {
        let passes =
            matches!(node.op_type.as_str(), "Cast" | "Identity" | "Reshape" | "Unsqueeze" | "Squeeze");
        if passes && node.input.first().is_some_and(|name| names.contains(&name.as_str())) {
            names.extend(node.output.iter().map(String::as_str));
        }
    }
    let chooses = |node: &&NodeProto| {
        node.op_type == "Gather" && node.input.get(1).is_some_and(|name| names.contains(&name.as_str()))
    };
    let table = graph.node.iter().find(chooses)?.input.first()?;
    match model.initializer(table).ok()?.shape() {
        [rows, _] => Some(*rows),
        _ => None,
    }
}

/// Checks that a graph of our own has the inputs and the outputs of its kind; the first input is \[N, C, H,
/// W\].
///
/// # Errors
/// [`Error::Invalid`] naming what the graph has instead.
pub(super) fn own(origin: &str, summary: &Summary, inputs: &[&str], outputs: &[&str]) -> Result<Frame> {
    let refuse = |kind: &str, expected: String, got: &[Port]| {
        Error::invalid(format!("{origin}, {kind}"), expected, listed(got), "export it again")
    };
    let names: Vec<&str> = summary.inputs.iter().map(|port| port.name.as_str()).collect();
    if names != inputs {
        return Err(refuse("inputs", inputs.join(", "), &summary.inputs));
    }
    let names: Vec<&str> = summary.outputs.iter().map(|port| port.name.as_str()).collect();
    if names != outputs {
        return Err(refuse("outputs", outputs.join(", "), &summary.outputs));
    }
    frame(origin, &summary.inputs[0])
}

/// The images of a port \[N, C, H, W\].
fn frame(origin: &str, port: &Port) -> Result<Frame> {
    match port.shape.as_ref().map(|shape| shape.dims()) {
        Some([batch, Dim::Known(c), Dim::Known(h), Dim::Known(w)]) if !is_absurd([*c, *h, *w]) => {
            Ok(Frame { image: [*h, *w, *c], batch: batch.known() })
        }
        _ => Err(Error::invalid(
            format!("{origin}, input"),
            "f32 [N, C, H, W] with C, H and W fixed",
            port.to_string(),
            "export the model for one size of images",
        )),
    }
}

/// Whether images are of no numbers, or of more than any memory holds.
fn is_absurd(image: [usize; 3]) -> bool {
    !machine::count::<f32>("an image", &image).is_ok_and(|len| len > 0)
}

fn listed(ports: &[Port]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    ports.iter().map(Port::to_string).collect::<Vec<_>>().join("; ")
}
