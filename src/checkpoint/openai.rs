//! State dicts of OpenAI's improved-diffusion and guided-diffusion (`UNetModel`), as safetensors.
//!
//! Where every level has as many residual blocks, the first level has the base number of channels and the
//! resolution is changed by convolutions or residual blocks, the network is diffusers' `UNet2DModel` under
//! other names, with the queries, keys and values of an attention in one tensor. The tensors do not tell the
//! images' size, the number of heads and how these are laid out.

use super::safetensors_io::Tensors;
use crate::config::{Activation, BlockAttention, FavorConfig, Resampling, TimeScaleShift, UnetConfig};
use crate::error::{Error, Result};
use crate::model::{Model, unet};
use std::collections::HashMap;

/// What the tensors of a state dict do not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// Height and width of the images.
    pub size: Option<[usize; 2]>,
    /// Channels of an attention head.
    pub head: Option<usize>,
    /// Whether queries, keys and values are apart first and heads within them (`use_new_attention_order`),
    /// and not the other way round. It is the same for one head.
    pub new_attention_order: bool,
}

/// The name that only such a network has.
const FIRST: &str = "input_blocks.0.0.weight";
/// Groups and constant of every normalisation.
const GROUPS: usize = 32;
const EPS: f64 = 1e-5;

/// What comes before every name, if this is such a state dict.
pub(super) fn prefix(tensors: &Tensors) -> Option<String> {
    tensors.iter().find_map(|(name, _)| name.strip_suffix(FIRST).map(str::to_owned))
}

/// The network of a state dict.
///
/// # Errors
/// [`Error::Invalid`] naming the tensors that no network of this library has, or what has to be told.
pub(super) fn take(tensors: &mut Tensors, prefix: &str, untold: Untold) -> Result<Model<f32>> {
    let layout = Layout::of(tensors, prefix)?;
    let config = layout.config(tensors, untold)?;
    let graph = unet::build(&config)?;
    let mut weights = Vec::with_capacity(graph.params.total());
    let mut joined = HashMap::new();
    for param in graph.params.iter() {
        let (name, part) = layout.source(&param.name);
        let shape = param.kind.file_shape();
        let values: Vec<f32> = match part {
            None => {
                let linear = [shape.as_slice(), &[1]].concat();
                let conv = [shape.as_slice(), &[1, 1]].concat();
                tensors.take(&[&name], &[&shape, &linear, &conv])?
            }
            Some(part) => {
                let (rows, row) = (shape[0], shape.get(1).copied().unwrap_or(1));
                let all: &Vec<f32> = match joined.entry(name) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        let wanted: Vec<usize> = [&[3 * rows], &shape[1..]].concat();
                        let conv = [wanted.as_slice(), &[1]].concat();
                        let values = tensors.take(&[entry.key().as_str()], &[&wanted, &conv])?;
                        entry.insert(values)
                    }
                };
                let head = config.attention_head_dim.unwrap_or(rows);
                let order = if untold.new_attention_order { rows } else { head };
                rows_of_part(all, part, order, row)
            }
        };
        weights.extend(param.kind.from_file_layout(&values));
    }
    Ok(Model { config, graph: graph.into(), weights, projections: Vec::new() })
}

/// The rows of queries (0), keys (1) or values (2) in a tensor where `run` rows of each follow each other
/// again and again; a row has `row` numbers.
fn rows_of_part(all: &[f32], part: usize, run: usize, row: usize) -> Vec<f32> {
    let block = run * row;
    all.chunks_exact(block).skip(part).step_by(3).flatten().copied().collect()
}

/// Which blocks there are, by the names of the tensors.
struct Layout {
    prefix: String,
    levels: usize,
    layers: usize,
    /// Whether residual blocks change the resolution.
    resnets: bool,
    /// The place of the module that doubles the resolution in the last output block of each level, the lowest
    /// resolution first.
    up_places: Vec<usize>,
}

impl Layout {
    fn of(tensors: &Tensors, prefix: &str) -> Result<Layout> {
        let has = |name: String| tensors.shape(&format!("{prefix}{name}.weight")).is_some();
        let count = |blocks: &str| {
            let numbers = tensors.iter().filter_map(|(name, _)| {
                name.strip_prefix(prefix)?.strip_prefix(blocks)?.split('.').next()?.parse::<usize>().ok()
            });
            numbers.max().map_or(0, |last| last + 1)
        };
        let (inputs, outputs) = (count("input_blocks."), count("output_blocks."));
        let conv = |k: usize, m: usize| has(format!("output_blocks.{k}.{m}.conv"));
        let resnet = |k: usize, m: usize| has(format!("output_blocks.{k}.{m}.in_layers.0"));
        let ups: Vec<(usize, usize)> = (0..outputs)
            .filter_map(|k| [1, 2].into_iter().find(|m| conv(k, *m) || resnet(k, *m)).map(|m| (k, m)))
            .collect();
        let levels = ups.len() + 1;
        let layers = (outputs / levels).saturating_sub(1);
        let fits = layers > 0
            && outputs == levels * (layers + 1)
            && inputs == levels * (layers + 1)
            && ups.iter().enumerate().all(|(i, (k, _))| *k == (i + 1) * (layers + 1) - 1)
            && has("middle_block.1.qkv".to_owned());
        if !fits {
            return Err(tensors.refuse_network(
                "a UNetModel with as many residual blocks at every level, resolutions changed by convolutions or \
                 residual blocks, and attention in the middle",
                format!("{inputs} input and {outputs} output blocks, {} of which double the resolution", ups.len()),
            ));
        }
        Ok(Layout {
            prefix: prefix.to_owned(),
            levels,
            layers,
            resnets: ups.first().is_some_and(|(k, m)| resnet(*k, *m)),
            up_places: ups.into_iter().map(|(_, m)| m).collect(),
        })
    }

    fn shape<'t>(&self, tensors: &'t Tensors, name: &str) -> Result<&'t [usize]> {
        let name = format!("{}{name}", self.prefix);
        tensors.shape(&name).ok_or_else(|| tensors.refuse_network(format!("a tensor {name}"), "none"))
    }

    fn config(&self, tensors: &Tensors, untold: Untold) -> Result<UnetConfig> {
        let first = |name: &str| self.shape(tensors, name).map(|shape| shape[0]);
        let block = |level: usize| format!("input_blocks.{}", 1 + level * (self.layers + 1));
        let channels = (0..self.levels)
            .map(|level| first(&format!("{}.0.out_layers.0.weight", block(level))))
            .collect::<Result<Vec<usize>>>()?;
        let conv_in = self.shape(tensors, "input_blocks.0.0.weight")?;
        let [base, in_channels] = [conv_in[0], conv_in.get(1).copied().unwrap_or(0)];
        let time = self.shape(tensors, "time_embed.0.weight")?;
        if channels[0] != base || time != [4 * base, base] {
            return Err(tensors.refuse_network(
                format!(
                    "a first level with the base number of channels, and time_embed.0 [{}, {base}]",
                    4 * base
                ),
                format!("{} channels and {time:?}", channels[0]),
            ));
        }
        let attends = |blocks: String| match tensors.shape(&format!("{}{blocks}.1.qkv.weight", self.prefix)) {
            Some(_) => BlockAttention::Softmax,
            None => BlockAttention::None,
        };
        let down_attention: Vec<BlockAttention> =
            (0..self.levels).map(|level| attends(block(level))).collect();
        let up_attention =
            (0..self.levels).map(|up| attends(format!("output_blocks.{}", up * (self.layers + 1)))).collect();
        let doubled = first("input_blocks.1.0.emb_layers.1.weight")? == 2 * channels[0];
        let ask = |what: &str, expected: &str, help: &str| {
            Err(Error::invalid(what, expected, "nothing, and the tensors do not tell", help))
        };
        let Some(sample_size) = untold.size else {
            return ask("`size`", "the images' height and width", "such as 64");
        };
        let Some(head) = untold.head else {
            let help = "64 in the published guided-diffusion models; the channels of the attending levels divided by \
                        num_heads (4) in improved-diffusion";
            return ask("`head`", "the channels of an attention head", help);
        };
        let resampling = if self.resnets { vec![Resampling::Resnet; self.levels] } else { Vec::new() };
        Ok(UnetConfig {
            sample_size,
            in_channels,
            out_channels: first("out.2.weight")?,
            block_out_channels: channels,
            layers_per_block: self.layers,
            down_attention,
            mid_attention: BlockAttention::Softmax,
            up_attention,
            attention_head_dim: Some(head),
            favor: FavorConfig::default(),
            norm_num_groups: GROUPS,
            attn_norm_num_groups: Some(GROUPS),
            norm_eps: EPS,
            downsample_padding: 1,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            mid_block_scale_factor: 1.0,
            dropout: 0.0,
            act_fn: Activation::Silu,
            resnet_time_scale_shift: if doubled {
                TimeScaleShift::ScaleShift
            } else {
                TimeScaleShift::Default
            },
            downsampling: resampling.clone(),
            upsampling: resampling,
            center_input_sample: false,
            num_class_embeds: tensors
                .shape(&format!("{}label_emb.weight", self.prefix))
                .map(|shape| shape[0]),
            class_names: Vec::new(),
        })
    }

    /// The tensor that one of our parameters is in, and which third of it for queries, keys and values.
    fn source(&self, ours: &str) -> (String, Option<usize>) {
        let (module, field) = ours.rsplit_once('.').unwrap_or((ours, ""));
        let words: Vec<&str> = module.split('.').collect();
        let number = |word: &str| word.parse::<usize>().unwrap_or(0);
        let each = self.layers + 1;
        let (block, inner): (String, &[&str]) = match words.as_slice() {
            ["conv_in"] => ("input_blocks.0.0".to_owned(), &[]),
            ["time_embedding", "linear_1"] => ("time_embed.0".to_owned(), &[]),
            ["time_embedding", "linear_2"] => ("time_embed.2".to_owned(), &[]),
            ["class_embedding"] => ("label_emb".to_owned(), &[]),
            ["conv_norm_out"] => ("out.0".to_owned(), &[]),
            ["conv_out"] => ("out.2".to_owned(), &[]),
            ["down_blocks", level, kind, layer, inner @ ..] => {
                let first = 1 + number(level) * each;
                let place = match *kind {
                    "resnets" => format!("{}.0", first + number(layer)),
                    "attentions" => format!("{}.1", first + number(layer)),
                    _ => format!("{}.0", first + self.layers),
                };
                (format!("input_blocks.{place}"), inner)
            }
            ["mid_block", "attentions", _, inner @ ..] => ("middle_block.1".to_owned(), inner),
            ["mid_block", _, layer, inner @ ..] => (format!("middle_block.{}", 2 * number(layer)), inner),
            ["up_blocks", up, kind, layer, inner @ ..] => {
                let first = number(up) * each;
                let place = match *kind {
                    "resnets" => format!("{}.0", first + number(layer)),
                    "attentions" => format!("{}.1", first + number(layer)),
                    _ => format!("{}.{}", first + self.layers, self.up_places.get(number(up)).unwrap_or(&1)),
                };
                (format!("output_blocks.{place}"), inner)
            }
            _ => (module.to_owned(), &[]),
        };
        let is_down = words.first() == Some(&"down_blocks");
        let (inner, part) = match inner.join(".").as_str() {
            "" => ("", None),
            "norm1" => (".in_layers.0", None),
            "conv1" => (".in_layers.2", None),
            "time_emb_proj" => (".emb_layers.1", None),
            "norm2" => (".out_layers.0", None),
            "conv2" => (".out_layers.3", None),
            "conv_shortcut" => (".skip_connection", None),
            "group_norm" => (".norm", None),
            "to_q" => (".qkv", Some(0)),
            "to_k" => (".qkv", Some(1)),
            "to_v" => (".qkv", Some(2)),
            "to_out.0" => (".proj_out", None),
            "conv" if is_down => (".op", None),
            _ => (".conv", None),
        };
        (format!("{}{block}{inner}.{field}", self.prefix), part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_place() {
        let layout =
            Layout { prefix: "module.".to_owned(), levels: 2, layers: 2, resnets: false, up_places: vec![2] };
        for (ours, theirs, part) in [
            ("conv_in.weight", "input_blocks.0.0.weight", None),
            ("time_embedding.linear_2.bias", "time_embed.2.bias", None),
            ("class_embedding.weight", "label_emb.weight", None),
            ("down_blocks.0.resnets.1.norm1.weight", "input_blocks.2.0.in_layers.0.weight", None),
            ("down_blocks.1.attentions.0.to_k.weight", "input_blocks.4.1.qkv.weight", Some(1)),
            ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight", None),
            ("down_blocks.0.downsamplers.0.conv2.weight", "input_blocks.3.0.out_layers.3.weight", None),
            ("mid_block.resnets.1.time_emb_proj.bias", "middle_block.2.emb_layers.1.bias", None),
            ("mid_block.attentions.0.to_out.0.bias", "middle_block.1.proj_out.bias", None),
            ("up_blocks.1.resnets.2.conv_shortcut.weight", "output_blocks.5.0.skip_connection.weight", None),
            ("up_blocks.0.upsamplers.0.conv.bias", "output_blocks.2.2.conv.bias", None),
            ("up_blocks.0.upsamplers.0.conv1.bias", "output_blocks.2.2.in_layers.2.bias", None),
            ("conv_norm_out.bias", "out.0.bias", None),
        ] {
            assert_eq!(layout.source(ours), (format!("module.{theirs}"), part), "{ours}");
        }
    }

    /// Two heads of one channel, rows of two numbers.
    #[test]
    fn heads_are_within_queries_keys_and_values_or_around_them() {
        let all: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(rows_of_part(&all, 1, 1, 2), [2.0, 3.0, 8.0, 9.0]);
        assert_eq!(rows_of_part(&all, 1, 2, 2), [4.0, 5.0, 6.0, 7.0]);
    }
}
