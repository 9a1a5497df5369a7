//! Models of other element types, with f32 and i64 at their inputs and outputs.

use super::Model;
use crate::proto::{AttributeProto, AttributeType, GraphProto, NodeProto, ValueInfoProto};
use crate::types::ElementType;
use std::collections::HashSet;

/// The type that a host feeds in place of another, if there is one that holds its values or rounds to them.
fn plain(element: ElementType) -> Option<ElementType> {
    match element {
        ElementType::F16 | ElementType::Bf16 | ElementType::F64 => Some(ElementType::F32),
        ElementType::I32 | ElementType::U8 | ElementType::I8 | ElementType::U16 | ElementType::I16 => {
            Some(ElementType::I64)
        }
        _ => None,
    }
}

impl Model {
    /// The same model whose inputs and outputs of half, bfloat16 or double precision are f32, and those of
    /// shorter integers i64: a `Cast` stands between. Names stay as they are.
    pub fn with_plain_ports(&self) -> Model {
        let mut model = self.clone();
        if let Some(graph) = &mut model.proto.graph {
            widen(graph);
        }
        model
    }
}

fn widen(graph: &mut GraphProto) {
    let weights: HashSet<String> = graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
    let mut first = Vec::new();
    for input in graph.input.iter_mut().filter(|input| !weights.contains(&input.name)) {
        if let Some(from) = retyped(input) {
            first.push((input.name.clone(), from));
        }
    }
    let mut last = Vec::new();
    for output in &mut graph.output {
        if let Some(from) = retyped(output) {
            last.push((output.name.clone(), from));
        }
    }
    let inner = |name: &str| format!("{name}/as_the_model_has_it");
    for (name, _) in first.iter().chain(&last) {
        rename(graph, name, &inner(name));
        graph.value_info.retain(|value| value.name != *name);
    }
    let mut nodes: Vec<NodeProto> =
        first.iter().map(|(name, element)| cast(name, &inner(name), *element)).collect();
    nodes.append(&mut graph.node);
    for (name, from) in &last {
        let to = plain(*from).unwrap_or(*from);
        nodes.push(cast(&inner(name), name, to));
    }
    graph.node = nodes;
}

/// Gives a value the plain type; the type that it had, if that was another.
fn retyped(value: &mut ValueInfoProto) -> Option<ElementType> {
    let tensor = value.r#type.as_mut()?.tensor_type.as_mut()?;
    let from = ElementType::from_code(tensor.elem_type);
    tensor.elem_type = plain(from)?.code();
    Some(from)
}

fn cast(from: &str, to: &str, element: ElementType) -> NodeProto {
    let attribute = AttributeProto {
        name: "to".to_owned(),
        i: Some(element.code().into()),
        r#type: AttributeType::Int as i32,
        ..Default::default()
    };
    NodeProto {
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        name: format!("{to}/cast"),
        op_type: "Cast".to_owned(),
        attribute: vec![attribute],
        ..Default::default()
    }
}

/// Renames a value in every node that reads or writes it, sub-graphs included, which see the names around
/// them.
fn rename(graph: &mut GraphProto, from: &str, to: &str) {
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output).filter(|name| *name == from) {
            to.clone_into(name);
        }
        for attribute in &mut node.attribute {
            for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                for output in inner.output.iter_mut().filter(|output| output.name == from) {
                    to.clone_into(&mut output.name);
                }
                rename(inner, from, to);
            }
        }
    }
}
