//! Writes a finished graph as ONNX messages.

use super::{GraphBuilder, Value, ValueData};
use crate::error::{Error, Result};
use crate::proto::{
    AttributeProto, AttributeType, DimensionProto, DimensionValue, GraphProto, NodeProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::types::{Dim, ElementType};

impl GraphBuilder {
    pub(super) fn into_graph(self) -> Result<GraphProto> {
        if self.outputs.is_empty() {
            return Err(Error::invalid(
                format!("graph {}", self.name),
                "at least one output",
                "none",
                "call output()",
            ));
        }
        let info = |value: &Value| value_info(&self.values[value.index]);
        let name_of = |value: &Value| self.values[value.index].name.clone();
        let value_info = self
            .nodes
            .iter()
            .flat_map(|node| &node.outputs)
            .filter(|value| !self.outputs.contains(value))
            .map(info)
            .collect();
        let (input, output) =
            (self.inputs.iter().map(info).collect(), self.outputs.iter().map(info).collect());
        let node = self
            .nodes
            .iter()
            .map(|node| NodeProto {
                input: node.inputs.iter().map(|v| v.as_ref().map_or_else(String::new, name_of)).collect(),
                output: node.outputs.iter().map(name_of).collect(),
                name: node.name.clone(),
                op_type: node.op.name(),
                attribute: node.attributes.clone(),
                doc_string: node.doc.clone(),
                domain: String::new(),
            })
            .collect();
        Ok(GraphProto {
            node,
            name: self.name.clone(),
            initializer: self.initializers,
            doc_string: String::new(),
            input,
            output,
            value_info,
        })
    }
}

pub(super) fn tensor(name: &str, element: ElementType, shape: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: shape.iter().map(|&length| length as i64).collect(),
        data_type: element.code(),
        name: name.to_owned(),
        raw_data: Some(bytes),
        ..TensorProto::default()
    }
}

pub(super) fn value_info(value: &ValueData) -> ValueInfoProto {
    let dim = value
        .shape
        .dims()
        .iter()
        .map(|dim| DimensionProto {
            value: match dim {
                Dim::Known(length) => Some(DimensionValue::DimValue(*length as i64)),
                Dim::Symbol(name) => Some(DimensionValue::DimParam(name.clone())),
                Dim::Unknown => None,
            },
        })
        .collect();
    ValueInfoProto {
        name: value.name.clone(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: value.element.code(),
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
        doc_string: String::new(),
    }
}

pub(super) fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind as i32, ..AttributeProto::default() }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        ints: values.iter().map(|&v| v as i64).collect(),
        ..attribute(name, AttributeType::Ints)
    }
}

pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, AttributeType::String) }
}
