//! A graph builder that infers and checks types and shapes while the graph is written.
//!
//! Operators are those of ONNX opset 17; the ONNX documentation states the shape rule of each. Every method
//! adds one node, unless its documentation says otherwise, and returns the node's output.

mod check;
mod constants;
mod elementwise;
mod layout;
mod linear;
mod norm;
mod reduce;
mod scan;
mod write;

pub use elementwise::{Binary, Unary};
pub use layout::{PadMode, ReshapeDim, SliceRange};
pub use linear::{ConvSpec, ConvTransposeSpec};
pub use norm::GroupNormParts;
pub use reduce::Reduction;
pub use scan::ScanOutputs;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{AttributeProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use crate::types::{Dim, ElementType, Shape};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use write::{float, int, ints, text};

/// The operator set that files are written for.
pub const OPSET: i64 = 17;
/// The version of the file format that files are written in.
pub const IR_VERSION: i64 = 8;

/// A value of a graph under construction: an input, an initialiser, or what a node writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    graph: u64,
    index: usize,
}

/// The description of a model in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// The program that wrote the file.
    pub producer_name: String,
    /// That program's version.
    pub producer_version: String,
    /// Text for a reader.
    pub doc: String,
    /// Named properties; keys must differ.
    pub metadata: Vec<(String, String)>,
}

/// The operators that the builder writes; each variant's name is the operator's name in ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    AveragePool,
    Cast,
    Clip,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    Expand,
    Gather,
    LayerNormalization,
    MatMul,
    Pad,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Reshape,
    Resize,
    Scan,
    Shape,
    Slice,
    Softmax,
    Split,
    Squeeze,
    TopK,
    Transpose,
    Unsqueeze,
    Where,
    Unary(Unary),
    Binary(Binary),
}

impl Op {
    fn name(self) -> String {
        match self {
            Op::Unary(op) => format!("{op:?}"),
            Op::Binary(op) => format!("{op:?}"),
            op => format!("{op:?}"),
        }
    }
}

#[derive(Debug)]
struct ValueData {
    name: String,
    element: ElementType,
    shape: Shape,
}

#[derive(Debug)]
struct Node {
    op: Op,
    name: String,
    inputs: Vec<Option<Value>>,
    outputs: Vec<Value>,
    attributes: Vec<AttributeProto>,
    doc: String,
}

/// The key of a small constant: equal constants are written once per graph.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ConstantKey {
    element: ElementType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A graph under construction.
#[derive(Debug)]
pub struct GraphBuilder {
    id: u64,
    name: String,
    values: Vec<ValueData>,
    nodes: Vec<Node>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    initializers: Vec<TensorProto>,
    initializer_values: HashMap<String, Value>,
    constants: HashMap<ConstantKey, Value>,
    names: HashSet<String>,
    scope: String,
    doc: String,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        // Values carry the number of their graph, so that a value of another graph is refused.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        GraphBuilder {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: Vec::new(),
            initializer_values: HashMap::new(),
            constants: HashMap::new(),
            names: HashSet::new(),
            scope: String::new(),
            doc: String::new(),
        }
    }

    /// An empty graph for [`GraphBuilder::scan`]. The names of its nodes begin with the graph's name, because
    /// names must differ between a graph and the bodies in it.
    pub fn body(name: &str) -> Self {
        GraphBuilder { scope: name.to_owned(), ..GraphBuilder::new(name) }
    }

    /// Adds an input of the graph.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is empty or taken, or a dimension is unknown.
    pub fn input(&mut self, name: &str, element: ElementType, shape: impl Into<Shape>) -> Result<Value> {
        let shape = shape.into();
        if shape.dims().contains(&Dim::Unknown) {
            return Err(Error::invalid(
                format!("input {name}"),
                "known lengths or symbols",
                shape.to_string(),
                "",
            ));
        }
        Self::expect_countable(|| format!("input {name}"), &shape)?;
        self.claim(name)?;
        let value = self.push_value(name.to_owned(), element, shape);
        self.inputs.push(value);
        Ok(value)
    }

    /// Makes a value an output of the graph. An `Identity` node is added where the value already has a name
    /// (an input, an initialiser, another output).
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is empty or taken, or the value is of another graph.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        self.check(value)?;
        let named = self.inputs.contains(&value)
            || self.outputs.contains(&value)
            || self.initializer_values.values().any(|&v| v == value)
            || self.constants.values().any(|&v| v == value);
        let value = if named { self.unary(Unary::Identity, value)? } else { value };
        self.claim(name)?;
        self.values[value.index].name = name.to_owned();
        self.outputs.push(value);
        Ok(())
    }

    /// Every node that `body` adds gets this scope before its name and this text as its documentation. Scopes
    /// nest, and an empty text keeps the outer one.
    ///
    /// # Errors
    /// Whatever `body` returns.
    pub fn within<T>(
        &mut self,
        scope: &str,
        doc: &str,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let outer = self.enter(scope, doc);
        let result = body(self);
        (self.scope, self.doc) = outer;
        result
    }

    /// Enters a scope and returns the outer one and its documentation.
    fn enter(&mut self, scope: &str, doc: &str) -> (String, String) {
        let inner = if self.scope.is_empty() { scope.to_owned() } else { format!("{}/{scope}", self.scope) };
        let doc = if doc.is_empty() { self.doc.clone() } else { doc.to_owned() };
        (std::mem::replace(&mut self.scope, inner), std::mem::replace(&mut self.doc, doc))
    }

    /// A value's element type.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another graph.
    pub fn element_type(&self, value: Value) -> Result<ElementType> {
        Ok(self.check(value)?.element)
    }

    /// A value's shape.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is of another graph.
    pub fn shape(&self, value: Value) -> Result<&Shape> {
        Ok(&self.check(value)?.shape)
    }

    /// Finishes the graph as a model for opset [`OPSET`] and file version [`IR_VERSION`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when the graph has no output or two metadata keys are equal.
    pub fn into_model(self, info: ModelInfo) -> Result<Model> {
        let mut keys = HashSet::new();
        if let Some((key, _)) = info.metadata.iter().find(|(key, _)| !keys.insert(key.as_str())) {
            return Err(Error::invalid("model metadata", "different keys", format!("{key} twice"), ""));
        }
        let name = self.name.clone();
        let proto = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: info.producer_name,
            producer_version: info.producer_version,
            domain: String::new(),
            model_version: 0,
            doc_string: info.doc,
            graph: Some(self.into_graph()?),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: info
                .metadata
                .into_iter()
                .map(|(key, value)| StringStringEntryProto { key, value })
                .collect(),
        };
        Model::from_proto(&name, proto)
    }

    /// Adds a node that writes one value.
    fn node(
        &mut self,
        op: Op,
        inputs: &[Option<Value>],
        attributes: Vec<AttributeProto>,
        element: ElementType,
        shape: Shape,
    ) -> Result<Value> {
        Ok(self.node_with_outputs(op, inputs, attributes, vec![(element, shape)])?[0])
    }

    fn node_with_outputs(
        &mut self,
        op: Op,
        inputs: &[Option<Value>],
        attributes: Vec<AttributeProto>,
        outputs: Vec<(ElementType, Shape)>,
    ) -> Result<Vec<Value>> {
        for input in inputs.iter().flatten() {
            self.check(*input)?;
        }
        for (_, shape) in &outputs {
            Self::expect_countable(|| self.place(op), shape)?;
        }
        let name = self.node_name(op);
        let single = outputs.len() == 1;
        let mut written = Vec::with_capacity(outputs.len());
        for (i, (element, shape)) in outputs.into_iter().enumerate() {
            let output =
                self.free_name(if single { format!("{name}_out") } else { format!("{name}_out{i}") });
            written.push(self.push_value(output, element, shape));
        }
        self.nodes.push(Node {
            op,
            name,
            inputs: inputs.to_vec(),
            outputs: written.clone(),
            attributes,
            doc: self.doc.clone(),
        });
        Ok(written)
    }

    fn node_name(&mut self, op: Op) -> String {
        let op = op.name();
        self.free_name(if self.scope.is_empty() { op } else { format!("{}/{op}", self.scope) })
    }

    /// The name itself, or the name with the first number that makes it unique.
    fn free_name(&mut self, base: String) -> String {
        let mut name = base.clone();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{base}_{count}");
            count += 1;
        }
        name
    }

    fn claim(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || !self.names.insert(name.to_owned()) {
            let got = if name.is_empty() { "an empty name".to_owned() } else { format!("{name} again") };
            return Err(Error::invalid(format!("graph {}", self.name), "a name of its own", got, ""));
        }
        Ok(())
    }

    fn push_value(&mut self, name: String, element: ElementType, shape: Shape) -> Value {
        self.values.push(ValueData { name, element, shape });
        Value { graph: self.id, index: self.values.len() - 1 }
    }
}
