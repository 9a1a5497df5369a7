//! Weights that a model keeps in files beside it (`model.onnx.data`).

use super::is_external;
use crate::error::{Error, Result};
use crate::proto::{DataLocation, GraphProto, TensorProto};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Puts the elements of tensors that are in other files beside `model` into the message. Where such a file is
/// not there, or is outside of the model's folder, by its name or by a link, the tensor stays as it is. The
/// files of a cache, where the model is a link too, lie together where the links lead.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read; [`Error::Invalid`] for one that is too short.
pub(super) fn load(origin: &str, model: &Path, graph: &mut GraphProto) -> Result<()> {
    let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = model.canonicalize().ok().and_then(|real| Some(real.parent()?.to_path_buf()));
    let inside = folder.canonicalize().into_iter().chain(real).collect();
    let mut beside = Beside { folder: folder.to_path_buf(), inside, files: HashMap::new() };
    fill(origin, &mut beside, graph)
}

/// The files beside a model.
struct Beside {
    folder: PathBuf,
    /// Where a file has to lie in the end.
    inside: Vec<PathBuf>,
    files: HashMap<String, Vec<u8>>,
}

impl Beside {
    /// The file of this name, if it is there and inside.
    fn find(&self, location: &str) -> Option<PathBuf> {
        // The format allows no other folder, so that a model cannot read what is not its own.
        let is_name = Path::new(location).components().all(|part| matches!(part, Component::Normal(_)));
        let path = self.folder.join(location);
        let real = path.canonicalize().ok().filter(|real| is_name && real.is_file())?;
        self.inside.iter().any(|folder| real.starts_with(folder)).then_some(path)
    }
}

fn fill(origin: &str, beside: &mut Beside, graph: &mut GraphProto) -> Result<()> {
    for tensor in &mut graph.initializer {
        fill_tensor(origin, beside, tensor)?;
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            fill_tensor(origin, beside, tensor)?;
        }
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            fill(origin, beside, inner)?;
        }
    }
    Ok(())
}

/// An entry of the place of a tensor's elements.
pub(super) fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

fn fill_tensor(origin: &str, beside: &mut Beside, tensor: &mut TensorProto) -> Result<()> {
    if !is_external(tensor) {
        return Ok(());
    }
    let Some(location) = entry(tensor, "location").map(str::to_owned) else { return Ok(()) };
    let Some(path) = beside.find(&location) else { return Ok(()) };
    let files = &mut beside.files;
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

    /// A link that leads out reads nothing; those of a cache, where the model is one too, are followed.
    #[cfg(unix)]
    #[test]
    fn links_lead_no_further_than_the_models_own() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let [inner, blobs] = ["inner", "blobs"].map(|name| folder.path().join(name));
        for folder in [&inner, &blobs] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let numbers: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(blobs.join("1"), numbers).expect("a file");
        std::fs::write(blobs.join("2"), model(&[("location", "w")])).expect("a file");
        symlink(blobs.join("1"), inner.join("w")).expect("a link");
        std::fs::copy(blobs.join("2"), inner.join("model.onnx")).expect("a file");
        let strange = crate::Model::read(inner.join("model.onnx")).expect("a model");
        assert_eq!(strange.external_weight(), Some("w"));
        symlink(blobs.join("2"), inner.join("cached.onnx")).expect("a link");
        let cached = crate::Model::read(inner.join("cached.onnx")).expect("a model");
        assert_eq!(cached.initializer("w").expect("weights").as_f32(), Some(&[1.5, -2.0][..]));
    }
}
