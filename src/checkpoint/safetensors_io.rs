//! Reading safetensors files, with every tensor checked, and writing them.

use crate::error::{Error, Result};
use crate::model::graph::{Graph, Projection};
use crate::model::params::ParamKind;
use crate::real::Real;
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

/// The tensors of a file that have not been taken yet.
pub(super) struct Tensors<'a> {
    file: &'a Path,
    tensors: BTreeMap<String, TensorView<'a>>,
    metadata: HashMap<String, String>,
}

impl<'a> Tensors<'a> {
    /// Reads the header of a file's bytes; `file` names it in errors.
    pub(super) fn open(file: &'a Path, bytes: &'a [u8]) -> Result<Tensors<'a>> {
        let broken = |e: safetensors::SafeTensorError| {
            Error::invalid(
                file.display().to_string(),
                "a whole safetensors file",
                format!("{} bytes with an unusable header ({e})", bytes.len()),
                "the file is cut short, damaged or of another kind",
            )
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?.tensors().into_iter().collect();
        Ok(Tensors { file, tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// An entry of the header's free text.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The tensors left, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &TensorView<'a>)> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view))
    }

    /// Takes the first of `names` that the file has. The tensor must have one of the `shapes`, a
    /// floating-point type and only finite values.
    pub(super) fn take<T: Real>(&mut self, names: &[&str], shapes: &[&[usize]]) -> Result<Vec<T>> {
        let Some((name, view)) = names.iter().find_map(|n| self.tensors.remove_entry(*n)) else {
            let got = format!("no such tensor among the {} that are left", self.tensors.len());
            return Err(self.refuse(names[0], expected(shapes), got));
        };
        let values: Vec<T> = match view.dtype() {
            _ if !shapes.contains(&view.shape()) => None,
            Dtype::F32 => Some(decode(view.data(), |b| T::of(f32::from_le_bytes(b).into()))),
            Dtype::F64 => Some(decode(view.data(), |b| T::of(f64::from_le_bytes(b)))),
            Dtype::F16 => Some(decode(view.data(), |b| T::of(f16::from_le_bytes(b).to_f64()))),
            Dtype::BF16 => Some(decode(view.data(), |b| T::of(bf16::from_le_bytes(b).to_f64()))),
            _ => None,
        }
        .ok_or_else(|| {
            self.refuse(&name, expected(shapes), format!("{:?} {:?}", view.dtype(), view.shape()))
        })?;
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(i) => {
                let got = format!("{} at element {i}", values[i]);
                Err(self.refuse(&name, format!("finite numbers that {} can hold", T::NAME), got))
            }
        }
    }

    /// Refuses any tensor that has not been taken.
    pub(super) fn finish(self) -> Result<()> {
        match self.tensors.first_key_value() {
            None => Ok(()),
            Some((name, view)) => Err(self.refuse(
                name,
                "only the tensors of the configured network",
                format!(
                    "{:?} {:?}, one of {} unexpected tensors",
                    view.dtype(),
                    view.shape(),
                    self.tensors.len()
                ),
            )),
        }
    }

    fn refuse(&self, name: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        let help = "do the configuration and the tensors belong together?";
        Error::invalid(format!("{}, tensor {name}", self.file.display()), expected, got, help)
    }
}

fn expected(shapes: &[&[usize]]) -> String {
    let shapes: Vec<String> = shapes.iter().map(|s| format!("{s:?}")).collect();
    format!("F32 (or F64, F16, BF16) {}", shapes.join(" or "))
}

fn decode<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|b| value(*b)).collect()
}

/// Takes every parameter of a network out of a file, into the flat vector's order and layout.
///
/// Attention's tensors may have the names of diffusers' first versions (`query`, `key`, `value`,
/// `proj_attn`), and linear weights the shape of a 1x1 convolution, \[c_out, c_in, 1, 1\].
pub(super) fn take_weights<T: Real>(tensors: &mut Tensors<'_>, graph: &Graph) -> Result<Vec<T>> {
    let mut weights = Vec::new();
    for param in graph.params.iter() {
        let shape = param.kind.file_shape();
        let as_conv = [shape.as_slice(), &[1, 1]].concat();
        let mut shapes = vec![shape.as_slice()];
        if let ParamKind::Linear { .. } = param.kind {
            shapes.push(&as_conv);
        }
        let legacy = legacy_name(&param.name);
        let names: Vec<&str> = std::iter::once(param.name.as_str()).chain(legacy.as_deref()).collect();
        let file: Vec<T> = tensors.take(&names, &shapes)?;
        weights.extend(param.kind.from_file_layout(&file));
    }
    Ok(weights)
}

/// Takes every FAVOR+ projection, \[m, d\], in the graph's order.
pub(super) fn take_projections<T: Real>(
    tensors: &mut Tensors<'_>,
    list: &[Projection],
) -> Result<Vec<Vec<T>>> {
    list.iter().map(|p| tensors.take(&[&p.name], &[&[p.features, p.dim]])).collect()
}

/// An attention tensor's name before diffusers had one class for all attention.
fn legacy_name(name: &str) -> Option<String> {
    const NAMES: [(&str, &str); 4] =
        [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
    NAMES.iter().find(|(new, _)| name.contains(new)).map(|(new, old)| name.replace(new, old))
}

/// A tensor to write: name, shape, values.
pub(super) type Tensor<'a> = (&'a str, Vec<usize>, &'a [f32]);

/// Writes F32 tensors in the given order with one entry of free text: the same bytes for the same input.
pub(super) fn write(out: &mut impl Write, metadata: (&str, &str), tensors: &[Tensor<'_>]) -> io::Result<()> {
    let mut end = 0;
    let entries = tensors.iter().map(|(name, shape, values)| {
        let start = end;
        end += size_of_val(*values);
        let info = TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) };
        ((*name).to_owned(), info)
    });
    let text = HashMap::from([(metadata.0.to_owned(), metadata.1.to_owned())]);
    let header = Metadata::new(Some(text), entries.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    // The format requires tensors to start at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, _, values) in tensors {
        out.write_all(&little_endian(values))?;
    }
    Ok(())
}

/// The bytes of F32 values in a file.
pub(super) fn little_endian(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}
