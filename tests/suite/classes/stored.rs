use super::{NAMES, network};
use crate::support::models::{random, softmax};
use crate::support::python;
use performer_ddpm::checkpoint::model_folder::{load, load_unet_config, save};
use performer_ddpm::config::{DiffusionConfig, UnetConfig};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

fn saved() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &network(1), None, &DiffusionConfig::default()).unwrap();
    folder
}

#[test]
fn the_classes_names_are_in_the_folder() {
    let folder = saved();
    let config = load::<f32>(folder.path()).unwrap().model.config;
    assert_eq!(
        (config.class_names.as_slice(), config.null_class()),
        (&NAMES.map(str::to_owned)[..], Some(3))
    );
    // As in the index of diffusers' DiT pipelines.
    let unet = folder.path().join("unet/config.json");
    edit(&unet, |json| {
        assert_eq!(json["id2label"], json!({"0": "dark", "1": "light", "2": "striped"}));
        json.as_object_mut().unwrap().remove("id2label");
    });
    let unnamed = load::<f32>(folder.path()).unwrap().model.config;
    assert_eq!((unnamed.classes(), unnamed.null_class()), (4, None));
    edit(&folder.path().join("model_index.json"), |json| {
        json["id2label"] = json!({"2": "c", "0": "a", "10": "k", "1": "b"});
    });
    let message = load::<f32>(folder.path()).unwrap_err().to_string();
    assert!(message.contains("id2label") && message.contains("class 3"), "{message}");
    edit(&folder.path().join("model_index.json"), |json| json["id2label"] = json!({"1": "b", "0": "a"}));
    let message = load::<f32>(folder.path()).unwrap_err().to_string();
    assert!(message.contains("class_names") && message.contains("got 2"), "{message}");
    edit(&folder.path().join("model_index.json"), |json| {
        json["id2label"] = json!({"2": "c", "0": "a", "3": "d", "1": "b"});
    });
    for path in [folder.path().to_owned(), folder.path().join("unet")] {
        let config = load_unet_config(&path).unwrap();
        assert_eq!((config.class_names.concat(), config.null_class()), ("abcd".to_owned(), None));
    }
}

/// diffusers ignores the names, which its networks have no use for, and computes what we do.
#[test]
fn diffusers_loads_networks_whose_classes_have_names() {
    if !python::has_diffusers() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config =
        UnetConfig { num_class_embeds: Some(4), class_names: NAMES.map(str::to_owned).to_vec(), ..softmax() };
    save(folder.path(), &random(&config, 3), None, &DiffusionConfig::default()).unwrap();
    let script = "
import sys, torch, diffusers
pipeline = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1])
unet = pipeline.unet
x = torch.zeros(2, 1, 28, 28)
out = unet(x, 5, class_labels=torch.tensor([0, 3])).sample
print(type(pipeline).__name__, unet.class_embedding.num_embeddings)
print(tuple(out.shape), bool((out[0] != out[1]).any()))
";
    assert_eq!(python::output(script, &[folder.path()]), "DDPMPipeline 4\n(2, 1, 28, 28) True\n");
}
