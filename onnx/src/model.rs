//! A model in memory: reading and writing, a summary, weights by name.

mod external;
#[cfg(all(feature = "ort", not(target_family = "wasm")))]
mod fused;
mod ports;
mod summary;
mod weights;

pub use summary::{Port, Summary, WeightInfo};

use crate::error::{Error, Result};
use crate::proto::{DataLocation, DimensionValue, GraphProto, ModelProto, TensorProto};
use crate::types::Tensor;
use prost::Message;
use std::path::Path;

/// Protobuf's own limit on a message, in bytes.
const MAX_BYTES: u64 = (1 << 31) - 1;

/// A model, read from bytes or built by [`crate::builder::GraphBuilder`].
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    origin: String,
    proto: ModelProto,
}

impl Model {
    /// Reads a model from a file, and its weights where they are in files beside it.
    ///
    /// # Errors
    /// [`Error::Read`] when a file cannot be read, [`Error::Invalid`] when one of weights is too short,
    /// otherwise as [`Model::from_bytes`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let refuse = |source| Error::Read { path: path.to_path_buf(), source };
        let length = std::fs::metadata(path).map_err(refuse)?.len();
        if length > MAX_BYTES {
            return Err(too_large(&path.display().to_string(), length));
        }
        let bytes = std::fs::read(path).map_err(refuse)?;
        let mut model = Model::from_bytes(&path.display().to_string(), &bytes)?;
        if let Some(graph) = &mut model.proto.graph {
            external::load(&model.origin, path, graph)?;
        }
        Ok(model)
    }

    /// Reads a model from bytes; `origin` names them in messages.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the bytes are not an ONNX model, or only a part of one.
    pub fn from_bytes(origin: &str, bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(too_large(origin, bytes.len() as u64));
        }
        if bytes.is_empty() {
            return Err(Error::invalid(origin, "an ONNX model", "an empty file", ""));
        }
        let proto = ModelProto::decode(bytes).map_err(|error| undecodable(origin, bytes, &error))?;
        Model::from_proto(origin, proto)
    }

    /// A model from its message.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the message lacks what every model has: a file version, an operator set, a
    /// graph with outputs; and when its metadata have a key twice.
    pub fn from_proto(origin: &str, proto: ModelProto) -> Result<Self> {
        let missing = |what: &str| {
            Err(Error::invalid(
                origin,
                "an ONNX model",
                format!("{} without {what}", if proto.graph.is_some() { "a model" } else { "data" }),
                "the file may be of another format or cut short",
            ))
        };
        match &proto.graph {
            None => return missing("a graph"),
            Some(graph) if graph.output.is_empty() => return missing("outputs"),
            Some(_) if proto.ir_version.is_none() => return missing("a file version (ir_version)"),
            Some(_) if proto.opset_import.is_empty() => return missing("an operator set (opset_import)"),
            Some(_) => {}
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(again) = proto.metadata_props.iter().find(|entry| !seen.insert(entry.key.as_str())) {
            return Err(Error::invalid(
                format!("{origin}, metadata"),
                "each key once",
                format!("{:?} twice", again.key),
                "the file is damaged or made to be misread; export it again",
            ));
        }
        Ok(Model { origin: origin.to_owned(), proto })
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are more than protobuf's 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let length = self.proto.encoded_len() as u64;
        if length > MAX_BYTES {
            return Err(too_large(&self.origin, length));
        }
        Ok(self.proto.encode_to_vec())
    }

    /// Writes the file, which gets its name only when it is complete.
    ///
    /// # Errors
    /// [`Error::Write`] when the system refuses, [`Error::Invalid`] when the model is too large for the
    /// format.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let refuse = |source| Error::Write { path: path.to_path_buf(), source };
        let bytes = self.to_bytes()?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
        written.map_err(|source| {
            // Report the error of the write.
            let _ = std::fs::remove_file(&partial);
            refuse(source)
        })
    }

    /// Where the model came from: a path, or the name of its graph.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The property of this name.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.proto.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// What the model holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an input's, output's or weight's description is damaged.
    pub fn summary(&self) -> Result<Summary> {
        summary::summarise(self)
    }

    /// The weight of this name in the graph or in a sub-graph.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none, or its elements are neither f32 nor i64, are in another file or
    /// do not fit its shape.
    pub fn initializer(&self, name: &str) -> Result<Tensor> {
        let mut found = None;
        self.each_initializer(&mut |tensor| {
            if found.is_none() && tensor.name == name {
                found = Some(weights::decode(&self.origin, tensor));
            }
        });
        found.unwrap_or_else(|| {
            Err(Error::invalid(&self.origin, format!("an initialiser named {name}"), "none", ""))
        })
    }

    /// Checks that no weight has a NaN or, where it has more than one element, a magnitude above `largest`,
    /// which may be infinite.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the weight and the element.
    pub fn check_numbers(&self, largest: f64) -> Result<()> {
        let mut checked = Ok(());
        self.each_initializer(&mut |tensor| {
            if checked.is_ok() {
                checked = weights::check_numbers(&self.origin, tensor, largest);
            }
        });
        checked
    }

    /// The first weight whose elements are in a file that was not there, if any: the model cannot run
    /// without.
    pub fn external_weight(&self) -> Option<&str> {
        self.external_tensor().map(|tensor| tensor.name.as_str())
    }

    fn external_tensor(&self) -> Option<&TensorProto> {
        let mut found = None;
        self.each_initializer(&mut |tensor| {
            if found.is_none() && is_external(tensor) {
                found = Some(tensor);
            }
        });
        found
    }

    /// The same model with the length `symbol` fixed in all inputs, outputs and intermediate values, for
    /// runtimes that do more with fixed shapes (CUDA graphs need them).
    pub fn with_length(&self, symbol: &str, length: usize) -> Model {
        let mut model = self.clone();
        let fixed = i64::try_from(length).unwrap_or(i64::MAX);
        if let Some(graph) = &mut model.proto.graph {
            fix_lengths(graph, symbol, fixed);
        }
        model
    }

    /// The same model with its group normalisations as the operator that ONNX Runtime's CUDA provider has for
    /// images whose channels come last; `None` if it has none.
    #[cfg(all(feature = "ort", not(target_family = "wasm")))]
    pub(crate) fn with_fused_group_norms(&self) -> Option<Model> {
        let mut model = self.clone();
        (fused::fuse(&mut model.proto) > 0).then_some(model)
    }

    /// The bytes for a runtime, which needs a model that is complete in one file.
    #[cfg(any(feature = "tract", all(feature = "ort", not(target_family = "wasm"))))]
    pub(crate) fn runnable_bytes(&self) -> Result<Vec<u8>> {
        match self.external_tensor() {
            Some(tensor) => Err(weights::external(&self.origin, tensor)),
            None => self.to_bytes(),
        }
    }

    fn graph(&self) -> Option<&GraphProto> {
        self.proto.graph.as_ref()
    }

    fn each_initializer<'a>(&'a self, visit: &mut dyn FnMut(&'a TensorProto)) {
        if let Some(graph) = self.graph() {
            each_graph(graph, &mut |graph| graph.initializer.iter().for_each(&mut *visit));
        }
    }
}

/// Visits the graph and every sub-graph in its nodes' attributes. The decoder limits the depth.
fn each_graph<'a>(graph: &'a GraphProto, visit: &mut dyn FnMut(&'a GraphProto)) {
    visit(graph);
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        for inner in attribute.g.iter().chain(&attribute.graphs) {
            each_graph(inner, visit);
        }
    }
}

fn fix_lengths(graph: &mut GraphProto, symbol: &str, length: i64) {
    let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    let shapes = values.filter_map(|value| value.r#type.as_mut()?.tensor_type.as_mut()?.shape.as_mut());
    for dim in shapes.flat_map(|shape| &mut shape.dim) {
        // A reshape of the builder's makes multiples of a symbol: `2*N`.
        if let Some(DimensionValue::DimParam(name)) = &dim.value {
            let multiple = name.strip_suffix(symbol).and_then(|before| match before {
                "" => Some(1),
                _ => before.strip_suffix('*')?.parse::<i64>().ok(),
            });
            if let Some(multiple) = multiple {
                dim.value = Some(DimensionValue::DimValue(multiple.saturating_mul(length)));
            }
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            fix_lengths(inner, symbol, length);
        }
    }
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == DataLocation::External as i32
}

fn too_large(origin: &str, length: u64) -> Error {
    Error::invalid(
        origin,
        "at most 2 GiB, the limit of the file format",
        format!("{length} bytes"),
        "a larger model keeps its weights in a file of their own, which is not supported",
    )
}

fn undecodable(origin: &str, bytes: &[u8], error: &prost::DecodeError) -> Error {
    // A model starts with field 1, the file version, which is below 128: 0x08 and one byte.
    let begins_well = matches!(bytes, [0x08, version, ..] if *version < 0x80);
    let got = match bytes {
        [b'P', b'K', ..] => "a zip archive (a PyTorch checkpoint?)".to_owned(),
        _ if bytes.starts_with(b"version https://git-lfs") => "a pointer to a file in Git LFS".to_owned(),
        _ if begins_well => {
            format!("a model that is damaged or ends too early ({} bytes; {error})", bytes.len())
        }
        _ => format!("something else ({error})"),
    };
    Error::invalid(origin, "an ONNX model", got, "")
}
