//! Reading safetensors files, with every tensor checked, and writing them.

use super::json;
use crate::error::{Error, Result};
use crate::model::graph::{Graph, Projection};
use crate::model::params::ParamKind;
use crate::real::Real;
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// The tensors of a file that have not been taken yet.
pub(super) struct Tensors<'a> {
    file: &'a Path,
    tensors: BTreeMap<String, TensorView<'a>>,
    metadata: BTreeMap<String, String>,
}

impl<'a> Tensors<'a> {
    /// Reads the header of a file's bytes; `file` names it in errors.
    pub(super) fn open(file: &'a Path, bytes: &'a [u8]) -> Result<Tensors<'a>> {
        let broken = |e: safetensors::SafeTensorError| broken(file, bytes, &e);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        check_keys(file, bytes)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?.tensors().into_iter().collect();
        let metadata = header.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Tensors { file, tensors, metadata })
    }

    /// An entry of the header's free text.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The shape of a tensor that is left.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|view| view.shape())
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

    /// The error about tensors that are another network's.
    pub(super) fn refuse_network(&self, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::invalid(self.file.display().to_string(), expected, got, "this library has no such network")
    }

    fn refuse(&self, name: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        let help = "do the configuration and the tensors belong together?";
        Error::invalid(format!("{}, tensor {name}", self.file.display()), expected, got, help)
    }
}

/// Refuses a header that has a key twice.
fn check_keys(file: &Path, bytes: &[u8]) -> Result<()> {
    let header = header(bytes).and_then(|header| std::str::from_utf8(header).ok()).unwrap_or_default();
    json::parse(header).map(drop).map_err(|error| {
        let help = "the file is damaged or made to be misread; get it again";
        Error::invalid(file.display().to_string(), "a header with each name once", error.to_string(), help)
    })
}

/// The text of a file's header.
fn header(bytes: &[u8]) -> Option<&[u8]> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    bytes.get(8..length.checked_add(8)?)
}

/// The error for bytes that are no whole safetensors file: what they are instead, as far as they tell.
fn broken(file: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> Error {
    const PICKLE: &str = "convert it in Python, where its origin is trusted: load it with torch.load, and write it \
                          with safetensors.torch.save_file";
    // A zip archive and protocols 2 to 5 of Python's pickle are what torch.save writes.
    let kinds: [(&[u8], &str, &str); 8] = [
        (b"version https://git-lfs", "a Git LFS pointer", "get the file itself with `git lfs pull`"),
        (b"PK\x03\x04", "a zip archive, such as torch.save writes: a pickle, which can run any code", PICKLE),
        (b"\x80\x02", "a Python pickle, which can run any code when it is loaded", PICKLE),
        (b"\x80\x03", "a Python pickle, which can run any code when it is loaded", PICKLE),
        (b"\x80\x04", "a Python pickle, which can run any code when it is loaded", PICKLE),
        (b"\x80\x05", "a Python pickle, which can run any code when it is loaded", PICKLE),
        (b"<!DOCTYPE", "a web page", "get the file itself, not the page that shows it"),
        (b"\x89HDF\r\n", "an HDF5 file", "convert it to safetensors"),
    ];
    // A file whose header can be read as a length and a JSON object is one of the kind that was wanted.
    let has_header = header(bytes).is_some_and(|header| header.first() == Some(&b'{'));
    let (got, help) = match kinds.into_iter().find(|(start, ..)| !has_header && bytes.starts_with(start)) {
        Some((_, kind, help)) => (kind.to_owned(), help.to_owned()),
        None => match end(bytes) {
            Some(end) if end > bytes.len() => (
                format!("{} of the {end} bytes that its header tells of", bytes.len()),
                "it is cut short; get it again".to_owned(),
            ),
            Some(end) if end < bytes.len() => {
                let more = bytes.len() - end;
                let help = format!(
                    "the tensors end after {end} bytes; take off what follows, or get the file again"
                );
                (format!("{more} more byte(s) than its header tells of"), help)
            }
            _ => (
                format!("{} bytes with an unusable header ({error})", bytes.len()),
                "the file is damaged or of another kind".to_owned(),
            ),
        },
    };
    Error::invalid(file.display().to_string(), "a whole safetensors file", got, help)
}

/// The length that a file's header tells of, where the header is whole.
fn end(bytes: &[u8]) -> Option<usize> {
    let text = header(bytes)?;
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    let ends = entries.values().filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
    usize::try_from(ends.max()?).ok()?.checked_add(8 + text.len())
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
    let text = [(metadata.0.to_owned(), metadata.1.to_owned())].into_iter().collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let entry = |name: &str| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        let file = |names: [&str; 2]| {
            let header = format!("{{{}}}", names.map(entry).join(","));
            [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat()
        };
        let twice = file(["a", "a"]);
        let message = Tensors::open(Path::new("w.safetensors"), &twice).err().expect("refused").to_string();
        assert!(message.contains("w.safetensors") && message.contains("\"a\" is there twice"), "{message}");
        // Two names of one place are another fault, which the format's own reader finds.
        assert!(Tensors::open(Path::new("w.safetensors"), &file(["a", "b"])).is_err());
    }
}
