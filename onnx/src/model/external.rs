//! Weights that a model keeps in files beside it (`model.onnx.data`).

use super::is_external;
use crate::error::{Error, Result};
use crate::proto::{DataLocation, GraphProto, TensorProto};
use std::collections::HashMap;
use std::path::{Component, Path};

/// Puts the elements of tensors that are in other files of `folder` into the message. Where such a file is
/// not there, or is named outside of the folder, the tensor stays as it is.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read; [`Error::Invalid`] for one that is too short.
pub(super) fn load(origin: &str, folder: &Path, graph: &mut GraphProto) -> Result<()> {
    let mut files = HashMap::new();
    fill(origin, folder, graph, &mut files)
}

type Files = HashMap<String, Vec<u8>>;

fn fill(origin: &str, folder: &Path, graph: &mut GraphProto, files: &mut Files) -> Result<()> {
    for tensor in &mut graph.initializer {
        fill_tensor(origin, folder, tensor, files)?;
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            fill_tensor(origin, folder, tensor, files)?;
        }
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            fill(origin, folder, inner, files)?;
        }
    }
    Ok(())
}

/// An entry of the place of a tensor's elements.
pub(super) fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

fn fill_tensor(origin: &str, folder: &Path, tensor: &mut TensorProto, files: &mut Files) -> Result<()> {
    if !is_external(tensor) {
        return Ok(());
    }
    let Some(location) = entry(tensor, "location").map(str::to_owned) else { return Ok(()) };
    // The format allows no other folder, so that a model cannot read what is not its own.
    let is_inside = Path::new(&location).components().all(|part| matches!(part, Component::Normal(_)));
    let path = folder.join(&location);
    if !is_inside || !path.is_file() {
        return Ok(());
    }
    if !files.contains_key(&location) {
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        files.insert(location.clone(), bytes);
    }
    let number = |key: &str| entry(tensor, key).map(|text| text.parse::<usize>());
    let file = &files[&location];
    let start = number("offset").unwrap_or(Ok(0));
    let length = number("length").unwrap_or(Ok(file.len().saturating_sub(*start.as_ref().unwrap_or(&0))));
    let bytes = match (start, length) {
        (Ok(start), Ok(length)) => start.checked_add(length).and_then(|end| file.get(start..end)),
        _ => None,
    };
    let Some(bytes) = bytes else {
        let at = |key| entry(tensor, key).unwrap_or("none");
        return Err(Error::invalid(
            format!("{}, which {origin} keeps {} in", path.display(), tensor.name),
            format!("{} bytes at {}", at("length"), at("offset")),
            format!("a file of {} bytes", file.len()),
            "the two files do not belong together, or one is cut short",
        ));
    };
    tensor.raw_data = Some(bytes.to_vec());
    tensor.external_data.clear();
    tensor.data_location = DataLocation::Default as i32;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto};
    use prost::Message;

    fn model(entries: &[(&str, &str)]) -> Vec<u8> {
        let text = |text: &str| text.to_owned();
        let external_data =
            entries.iter().map(|(k, v)| StringStringEntryProto { key: text(k), value: text(v) }).collect();
        let weight = TensorProto {
            name: "w".into(),
            dims: vec![2],
            data_type: 1,
            external_data,
            data_location: DataLocation::External as i32,
            ..Default::default()
        };
        let output = vec![ValueInfoProto { name: "w".into(), ..Default::default() }];
        let graph = GraphProto { initializer: vec![weight], output, ..Default::default() };
        let opset = OperatorSetIdProto { version: 21, ..Default::default() };
        let proto = ModelProto {
            ir_version: Some(10),
            opset_import: vec![opset],
            graph: Some(graph),
            ..Default::default()
        };
        proto.encode_to_vec()
    }

    #[test]
    fn weights_in_a_file_beside_the_model_are_read_and_nothing_outside_of_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("inner").join("model.onnx");
        std::fs::create_dir(folder.path().join("inner")).expect("a folder");
        let numbers: Vec<u8> = [9.0f32, 1.5, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let data = file.with_file_name("model.onnx.data");
        std::fs::write(&data, &numbers).expect("a file");
        std::fs::write(folder.path().join("outside"), &numbers).expect("a file");
        let read = |entries: &[(&str, &str)]| {
            std::fs::write(&file, model(entries)).expect("a file");
            crate::Model::read(&file)
        };
        let place = ("location", "model.onnx.data");
        let whole = read(&[place, ("offset", "4"), ("length", "8")]).expect("a model");
        assert_eq!(whole.initializer("w").expect("weights").as_f32(), Some(&[1.5, -2.0][..]));
        let rest = read(&[place, ("offset", "4")]).expect("a model");
        assert_eq!(rest.initializer("w").expect("weights").as_f32(), Some(&[1.5, -2.0][..]));
        for wrong in [[("offset", "8"), ("length", "8")], [("offset", "x"), ("length", "4")]] {
            let message = read(&[&[place], &wrong[..]].concat()).expect_err("too short").to_string();
            assert!(message.contains("model.onnx.data") && message.contains("12 bytes"), "{message}");
        }
        for elsewhere in ["../outside", "missing.data"] {
            let message = read(&[("location", elsewhere)]).expect("a model").initializer("w").unwrap_err();
            assert!(message.to_string().contains(elsewhere), "{message}");
        }
    }
}
