//! A summary of a file.

use super::{Model, each_graph, is_external, weights};
use crate::error::{Error, Result};
use crate::proto::{DimensionValue, ValueInfoProto};
use crate::types::{Dim, ElementType, Shape};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// An input or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its shape; `None` when the file does not even fix the rank.
    pub shape: Option<Shape>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            Some(shape) => write!(f, "{} {} {shape}", self.name, self.element),
            None => write!(f, "{} {} of any shape", self.name, self.element),
        }
    }
}

/// One weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its lengths, outermost first.
    pub shape: Vec<usize>,
    /// Whether its elements are in another file.
    pub external: bool,
}

/// A summary of a file. Nodes and weights in sub-graphs are counted too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The graph's name.
    pub graph: String,
    /// The program that wrote the file, and its version.
    pub producer: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// The operator sets: name (empty for ONNX's own) and version.
    pub opsets: Vec<(String, i64)>,
    /// The inputs that have to be fed.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
    /// The weights in the file's order.
    pub weights: Vec<WeightInfo>,
    /// The number of elements of the weights, without integers.
    pub parameters: usize,
    /// How many nodes there are of each operator.
    pub operators: BTreeMap<String, usize>,
    /// The named properties in the file's order.
    pub metadata: Vec<(String, String)>,
    /// Text for a reader.
    pub doc: String,
}

impl Summary {
    /// The number of nodes.
    pub fn nodes(&self) -> usize {
        self.operators.values().sum()
    }
}

pub(super) fn summarise(model: &Model) -> Result<Summary> {
    let (origin, proto) = (model.origin(), model.proto());
    let mut summary = Summary {
        graph: String::new(),
        producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().to_owned(),
        ir_version: proto.ir_version.unwrap_or_default(),
        opsets: proto.opset_import.iter().map(|set| (set.domain.clone(), set.version)).collect(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        weights: Vec::new(),
        parameters: 0,
        operators: BTreeMap::new(),
        metadata: proto.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect(),
        doc: proto.doc_string.clone(),
    };
    let Some(graph) = &proto.graph else { return Ok(summary) };
    summary.graph = graph.name.clone();
    // Old files list their weights among the inputs as well.
    let fed: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    summary.inputs = graph
        .input
        .iter()
        .filter(|input| !fed.contains(input.name.as_str()))
        .map(|input| port(origin, input))
        .collect::<Result<_>>()?;
    summary.outputs = graph.output.iter().map(|output| port(origin, output)).collect::<Result<_>>()?;
    let mut tensors = Vec::new();
    each_graph(graph, &mut |graph| {
        tensors.extend(&graph.initializer);
        for node in &graph.node {
            *summary.operators.entry(node.op_type.clone()).or_default() += 1;
        }
    });
    for tensor in tensors {
        let (shape, count) = weights::shape_of(origin, tensor)?;
        let element = ElementType::from_code(tensor.data_type);
        if matches!(element, ElementType::F32 | ElementType::F64 | ElementType::F16 | ElementType::Bf16) {
            summary.parameters = summary.parameters.saturating_add(count);
        }
        summary.weights.push(WeightInfo {
            name: tensor.name.clone(),
            element,
            shape,
            external: is_external(tensor),
        });
    }
    Ok(summary)
}

fn port(origin: &str, info: &ValueInfoProto) -> Result<Port> {
    let refuse = |got: &str| {
        Error::invalid(format!("{origin}, value {}", info.name), "a tensor's type and shape", got, "")
    };
    let tensor = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| refuse("no type or one that is not a tensor's"))?;
    let shape = tensor.shape.as_ref().map(|shape| {
        shape
            .dim
            .iter()
            .map(|dim| match &dim.value {
                // Some exporters write -1 for a length that they do not know.
                Some(DimensionValue::DimValue(length)) => {
                    Ok(usize::try_from(*length).map_or(Dim::Unknown, Dim::Known))
                }
                Some(DimensionValue::DimParam(name)) if name.is_empty() => Ok(Dim::Unknown),
                Some(DimensionValue::DimParam(name)) => Ok(Dim::Symbol(name.clone())),
                None => Ok(Dim::Unknown),
            })
            .collect::<Result<Vec<Dim>>>()
    });
    Ok(Port {
        name: info.name.clone(),
        element: ElementType::from_code(tensor.elem_type),
        shape: shape.transpose()?.map(Shape),
    })
}
