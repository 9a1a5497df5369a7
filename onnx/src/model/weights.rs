//! Weights of a file as host tensors.

use super::external::entry;
use super::is_external;
use crate::error::{Error, Result};
use crate::proto::TensorProto;
use crate::types::{ElementType, Tensor, element_count};

/// The lengths of a weight and their product.
pub(super) fn shape_of(origin: &str, tensor: &TensorProto) -> Result<(Vec<usize>, usize)> {
    let refuse = || {
        Error::invalid(
            format!("{origin}, initialiser {}", tensor.name),
            "a shape of lengths that fit in memory",
            format!("{:?}", tensor.dims),
            "",
        )
    };
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&length| usize::try_from(length).ok()).collect();
    let shape = shape.ok_or_else(refuse)?;
    let count = element_count(&shape).ok_or_else(refuse)?;
    Ok((shape, count))
}

pub(super) fn external(origin: &str, tensor: &TensorProto) -> Error {
    Error::invalid(
        format!("{origin}, initialiser {}", tensor.name),
        "weights in the file, or in one beside it",
        format!("a reference to {} (external data)", entry(tensor, "location").unwrap_or("no file")),
        "put that file into the same folder under this name, or save the model with its weights in one file",
    )
}

pub(super) fn decode(origin: &str, tensor: &TensorProto) -> Result<Tensor> {
    let (shape, count) = shape_of(origin, tensor)?;
    if is_external(tensor) {
        return Err(external(origin, tensor));
    }
    let what = || format!("{origin}, initialiser {}", tensor.name);
    let counted = |got: usize| {
        if got == count {
            return Ok(());
        }
        Err(Error::invalid(
            what(),
            format!("{count} elements for shape {shape:?}"),
            got.to_string(),
            "the file is damaged",
        ))
    };
    let raw = tensor.raw_data.as_deref();
    match ElementType::from_code(tensor.data_type) {
        ElementType::F32 => {
            let data = match raw {
                Some(bytes) => words(bytes, count, f32::from_le_bytes).ok_or(bytes.len() / 4),
                None => Ok(tensor.float_data.clone()),
            };
            let data = data.or_else(|got| counted(got).and(Ok(Vec::new())))?;
            counted(data.len())?;
            Tensor::f32(shape.clone(), data)
        }
        ElementType::I64 => {
            let data = match raw {
                Some(bytes) => words(bytes, count, i64::from_le_bytes).ok_or(bytes.len() / 8),
                None => Ok(tensor.int64_data.clone()),
            };
            let data = data.or_else(|got| counted(got).and(Ok(Vec::new())))?;
            counted(data.len())?;
            Tensor::i64(shape.clone(), data)
        }
        other => Err(Error::invalid(what(), "f32 or i64 elements", other.to_string(), "")),
    }
}

/// Refuses a weight of floats of more than one element with a NaN, or with a magnitude above `largest`. Single
/// numbers may be bounds, which infinity is one of.
pub(super) fn check_numbers(origin: &str, tensor: &TensorProto, largest: f64) -> Result<()> {
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    let element = ElementType::from_code(tensor.data_type);
    let bad = |x: f64| x.is_nan() || x.abs() > largest;
    let narrow = |x: f32| f64::from(x);
    let found = match element {
        ElementType::F32 if raw.is_empty() => first(tensor.float_data.iter().map(|x| narrow(*x)), bad),
        ElementType::F64 if raw.is_empty() => first(tensor.double_data.iter().copied(), bad),
        ElementType::F32 => first(raw.as_chunks().0.iter().map(|b| narrow(f32::from_le_bytes(*b))), bad),
        ElementType::F64 => first(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)), bad),
        ElementType::F16 => {
            first(raw.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()), bad)
        }
        ElementType::Bf16 => {
            first(raw.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()), bad)
        }
        _ => None,
    };
    let Some((at, value)) = found.filter(|_| tensor.dims.iter().product::<i64>() > 1) else { return Ok(()) };
    let expected = if largest.is_finite() {
        format!("numbers of magnitudes up to {largest:.0e}")
    } else {
        "numbers".to_owned()
    };
    let what = format!("{origin}, initialiser {}, element {at}", tensor.name);
    Err(Error::invalid(what, expected, value.to_string(), "the weights are damaged; get the file again"))
}

/// The first number that is bad, with its place.
fn first(mut numbers: impl Iterator<Item = f64>, bad: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
    let mut place = 0;
    let found = numbers.find(|x| {
        place += 1;
        bad(*x)
    })?;
    Some((place - 1, found))
}

/// `count` little-endian words, or `None` when the bytes are not exactly those.
fn words<T, const SIZE: usize>(bytes: &[u8], count: usize, read: fn([u8; SIZE]) -> T) -> Option<Vec<T>> {
    let (chunks, rest) = bytes.as_chunks::<SIZE>();
    (rest.is_empty() && chunks.len() == count).then(|| chunks.iter().map(|chunk| read(*chunk)).collect())
}
