//! The runtime that computes the steps of a run's training, where the engine does not.

use performer_ddpm_onnx::runner::Device;
use serde::{Deserialize, Serialize};

/// A runtime's name in configuration files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeName {
    /// ONNX Runtime.
    Ort,
}

/// What computes the steps of a run's training in the engine's place. A run may go on in another runtime or
/// in the engine; it has the same bits only in the same one on the same processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// The runtime.
    pub backend: RuntimeName,
    /// Its device: `cpu`, `cuda` or `cuda:INDEX`.
    #[serde(with = "device")]
    pub device: Device,
    /// Whether a GPU may compute products in TF32 (about three decimal digits, faster).
    #[serde(default, skip_serializing_if = "is_off")]
    pub tf32: bool,
    /// Whether a GPU replays the steps as a CUDA graph, where that can be.
    #[serde(default = "yes", skip_serializing_if = "is_on")]
    pub cuda_graph: bool,
    /// Whether a GPU takes algorithms that ONNX Runtime and cuDNN call repeatable. Without, or where they are
    /// not, a resumed run goes on as well, but not to the same bits.
    #[serde(default = "yes", skip_serializing_if = "is_on")]
    pub repeatable: bool,
    /// The runtime's version, which a run writes down; that of the configuration it was made from plays no
    /// part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl RuntimeConfig {
    /// ONNX Runtime on a device, in full precision.
    pub fn ort(device: Device) -> RuntimeConfig {
        RuntimeConfig {
            backend: RuntimeName::Ort,
            device,
            tf32: false,
            cuda_graph: true,
            repeatable: true,
            version: None,
        }
    }
}

fn yes() -> bool {
    true
}

fn is_on(on: &bool) -> bool {
    *on
}

fn is_off(on: &bool) -> bool {
    !on
}

/// A device by its name.
mod device {
    use performer_ddpm_onnx::runner::Device;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(device: &Device, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(device)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Device, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};

    #[test]
    fn the_runtime_is_a_section_of_its_own_and_unknown_devices_are_refused() {
        let mut config = Preset::Tiny.config();
        assert!(!config.to_toml().contains("[runtime]"));
        config.runtime = Some(RuntimeConfig { tf32: true, ..RuntimeConfig::ort(Device::Cuda(1)) });
        let text = config.to_toml();
        assert!(text.contains("[runtime]\nbackend = \"ort\"\ndevice = \"cuda:1\"\ntf32 = true\n"), "{text}");
        assert_eq!(Config::from_toml(&text, "here").expect("round trip"), config);
        let error = Config::from_toml(&text.replace("cuda:1", "gpu"), "here").expect_err("no device");
        assert!(error.to_string().contains("cpu, cuda or cuda:INDEX"), "{error}");
    }
}
