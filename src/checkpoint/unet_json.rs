//! Reading and writing `config.json` of diffusers' `UNet2DModel`.
//!
//! FAVOR+ blocks have types of their own: `FavorAttnDownBlock2D`, `FavorAttnUpBlock2D` and, in the middle,
//! `UNetMidBlock2DFavor`, with [`crate::config::FavorConfig`] under the key `favor`. diffusers refuses block
//! types that it does not know, but ignores the middle block's type and unknown keys, so it would compute
//! softmax attention where only the middle block uses FAVOR+. In that case the last block on the way down
//! gets the prefix `FavorMid` (`FavorMidDownBlock2D`, `FavorMidAttnDownBlock2D`). It means the same network
//! to us, and diffusers refuses the folder.

use super::keys::Keys;
use crate::config::{Activation, BlockAttention, FavorConfig, Resampling, TimeScaleShift, UnetConfig};
use crate::error::Result;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A level's attention, how it changes the resolution, and the type of block that has both. Blocks with
/// attention change the resolution as `downsample_type` and `upsample_type` say.
type BlockType = (BlockAttention, Option<Resampling>, &'static str);

const DOWN: [BlockType; 4] = [
    (BlockAttention::None, Some(Resampling::Conv), "DownBlock2D"),
    (BlockAttention::None, Some(Resampling::Resnet), "ResnetDownsampleBlock2D"),
    (BlockAttention::Softmax, None, "AttnDownBlock2D"),
    (BlockAttention::Favor, None, "FavorAttnDownBlock2D"),
];
const UP: [BlockType; 4] = [
    (BlockAttention::None, Some(Resampling::Conv), "UpBlock2D"),
    (BlockAttention::None, Some(Resampling::Resnet), "ResnetUpsampleBlock2D"),
    (BlockAttention::Softmax, None, "AttnUpBlock2D"),
    (BlockAttention::Favor, None, "FavorAttnUpBlock2D"),
];
const RESAMPLING: [(&str, Resampling); 2] = [("conv", Resampling::Conv), ("resnet", Resampling::Resnet)];
const TIME_SCALE_SHIFT: [(&str, TimeScaleShift); 2] =
    [("default", TimeScaleShift::Default), ("scale_shift", TimeScaleShift::ScaleShift)];
const MID: &str = "UNetMidBlock2D";
const FAVOR_MID: &str = "UNetMidBlock2DFavor";
const FAVOR_MID_PREFIX: &str = "FavorMid";

/// `sample_size`: one side of a square, or height and width.
#[derive(Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Square(usize),
    Sides([usize; 2]),
}

/// Reads a `config.json`. A missing key has the default of diffusers' constructor.
///
/// # Errors
/// [`crate::Error::Invalid`] naming the file and the first key or value that is not supported.
pub(super) fn read(file: &Path) -> Result<UnetConfig> {
    config(Keys::read(file)?)
}

/// The configuration that a `config.json` holds.
///
/// # Errors
/// As [`read`].
pub(super) fn config(mut keys: Keys) -> Result<UnetConfig> {
    keys.fixed("_class_name", &[json!("UNet2DModel")])?;
    keys.tolerate(&["_diffusers_version", "_name_or_path"]);
    // What diffusers' average of the weights keeps in the same file, under `unet_ema`.
    keys.tolerate(&[
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    ]);
    accept_what_is_built_in(&mut keys)?;

    let count = "a positive whole number";
    let strings = "a list of block types";
    let sample_size = match keys.require(
        "sample_size",
        "a whole number or [height, width]",
        "write the images' height and width into the file: the network is built for one size",
    )? {
        SampleSize::Square(side) => [side, side],
        SampleSize::Sides(sides) => sides,
    };
    let down = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"].map(str::to_owned);
    let mut down: Vec<String> = keys.get("down_block_types", down.to_vec(), strings)?;
    let up = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"].map(str::to_owned);
    let up: Vec<String> = keys.get("up_block_types", up.to_vec(), strings)?;
    let channels = "a list of channel counts";
    let block_out_channels: Vec<usize> =
        keys.get("block_out_channels", vec![224, 448, 672, 896], channels)?;

    if let Some(first) = block_out_channels.first() {
        keys.fixed("time_embedding_dim", &[Value::Null, json!(first.saturating_mul(4))])?;
    }
    let mid_attention = mid_attention(&mut keys)?;
    if mid_attention == BlockAttention::Favor
        && let Some(last) = down.last_mut()
        && let Some(block) = last.strip_prefix(FAVOR_MID_PREFIX)
    {
        *last = block.to_owned();
    }
    let (down_type, up_type) =
        (resampling(&mut keys, "downsample_type")?, resampling(&mut keys, "upsample_type")?);
    let (down_attention, downsampling) = blocks(&keys, "down_block_types", &down, &DOWN, down_type)?;
    let (up_attention, upsampling) = blocks(&keys, "up_block_types", &up, &UP, up_type)?;
    let mut config = UnetConfig {
        sample_size,
        in_channels: keys.get("in_channels", 3, count)?,
        out_channels: keys.get("out_channels", 3, count)?,
        block_out_channels,
        layers_per_block: keys.get("layers_per_block", 2, count)?,
        down_attention,
        mid_attention,
        up_attention,
        attention_head_dim: keys.get("attention_head_dim", Some(8), "a positive whole number or null")?,
        favor: FavorConfig::default(),
        norm_num_groups: keys.get("norm_num_groups", 32, count)?,
        attn_norm_num_groups: keys.get("attn_norm_num_groups", None, "a positive whole number or null")?,
        norm_eps: keys.get("norm_eps", 1e-5, "a positive number")?,
        downsample_padding: keys.get("downsample_padding", 1, "0 or 1")?,
        flip_sin_to_cos: keys.get("flip_sin_to_cos", true, "true or false")?,
        freq_shift: keys.get("freq_shift", 0.0, "a number")?,
        mid_block_scale_factor: keys.get("mid_block_scale_factor", 1.0, "a positive number")?,
        dropout: keys.get("dropout", 0.0, "a number from 0 to 1")?,
        act_fn: activation(&mut keys)?,
        resnet_time_scale_shift: keys.one_of("resnet_time_scale_shift", "default", &TIME_SCALE_SHIFT)?,
        downsampling,
        upsampling,
        center_input_sample: keys.get("center_input_sample", false, "true or false")?,
        num_class_embeds: keys.get("num_class_embeds", None, "a positive whole number or null")?,
        class_names: class_names(&mut keys)?,
    };
    if uses_favor(&config) {
        config.favor = keys.require(
            "favor",
            "the settings of the FAVOR+ blocks: map, features, projection, norms, redraw_every",
            "",
        )?;
    } else if keys.has("favor") {
        return Err(keys.refuse("favor", "no such key where no block is a FAVOR+ block", "one", ""));
    }
    config.validate().map_err(|e| keys.in_file(e))?;
    keys.finish()?;
    Ok(config)
}

/// The names of the classes: `id2label`, an object from their indices, as in the index of diffusers' DiT
/// pipelines. `diffusers` itself ignores the key in the configuration of a network. Where all classes but the
/// last have a name, that is the null class.
pub(super) fn class_names(keys: &mut Keys) -> Result<Vec<String>> {
    let expected = "the classes' names by their indices, {\"0\": \"cat\", \"1\": \"dog\"}";
    let map: BTreeMap<usize, String> = keys.get(ID2LABEL, BTreeMap::new(), expected)?;
    match (0..).zip(map.keys()).find(|(index, key)| index != *key) {
        None => Ok(map.into_values().collect()),
        Some((index, key)) => Err(keys.refuse(
            ID2LABEL,
            format!("a name for class {index} too"),
            format!("none before {key}"),
            "",
        )),
    }
}

const ID2LABEL: &str = "id2label";

/// Keys for which only one behaviour is supported.
fn accept_what_is_built_in(keys: &mut Keys) -> Result<()> {
    keys.fixed("time_embedding_type", &[json!("positional")])?;
    for key in ["class_embed_type", "num_train_timesteps"] {
        keys.fixed(key, &[Value::Null])?;
    }
    Ok(())
}

fn mid_attention(keys: &mut Keys) -> Result<BlockAttention> {
    let kind: Option<String> = keys.get("mid_block_type", Some(MID.to_owned()), "a block type")?;
    let attends = keys.get("add_attention", true, "true or false")?;
    match (kind.as_deref(), attends) {
        (Some(MID), true) => Ok(BlockAttention::Softmax),
        (Some(MID), false) => Ok(BlockAttention::None),
        (Some(FAVOR_MID), true) => Ok(BlockAttention::Favor),
        (Some(FAVOR_MID), false) => {
            Err(keys.refuse("add_attention", format!("true with {FAVOR_MID}"), "false", ""))
        }
        (other, _) => Err(keys.refuse(
            "mid_block_type",
            format!("{MID} or {FAVOR_MID}"),
            other.unwrap_or("null"),
            "other middle blocks are not supported",
        )),
    }
}

/// The activation of the residual blocks; diffusers reads its name in any case.
fn activation(keys: &mut Keys) -> Result<Activation> {
    let expected = "silu, swish, mish, gelu or relu";
    let name: String = keys.get("act_fn", Activation::Silu.name().to_owned(), expected)?;
    let lower = name.to_lowercase();
    let known = Activation::ALL.into_iter().find(|function| function.name() == lower);
    known
        .or((lower == "swish").then_some(Activation::Silu))
        .ok_or_else(|| keys.refuse("act_fn", expected, name, "other activations are not supported"))
}

/// How the levels that attend change the resolution; to diffusers `null` means `conv`.
fn resampling(keys: &mut Keys, key: &str) -> Result<Resampling> {
    if keys.take_null(key) {
        return Ok(Resampling::Conv);
    }
    keys.one_of(key, "conv", &RESAMPLING)
}

/// Each level's attention and how it changes the resolution, the latter without entries where all levels have
/// convolutions; `attending` is for those that attend.
fn blocks(
    keys: &Keys,
    key: &str,
    types: &[String],
    known: &[BlockType; 4],
    attending: Resampling,
) -> Result<(Vec<BlockAttention>, Vec<Resampling>)> {
    let block = |name: &String| {
        // diffusers takes the names of its first versions too.
        let short = name.strip_prefix("UNetRes").unwrap_or(name);
        let block = known.iter().find(|(_, _, known)| *known == short);
        block.map(|(attention, resampling, _)| (*attention, resampling.unwrap_or(attending))).ok_or_else(
            || {
                let names = known.map(|(_, _, name)| name).join(", ");
                keys.refuse(key, names, name, "other blocks are not supported")
            },
        )
    };
    let blocks = types.iter().map(block).collect::<Result<Vec<_>>>()?;
    let (attention, mut resampling): (Vec<BlockAttention>, Vec<Resampling>) = blocks.into_iter().unzip();
    if resampling.iter().all(|way| *way == Resampling::Conv) {
        resampling.clear();
    }
    Ok((attention, resampling))
}

/// The types of the blocks, and `downsample_type` or `upsample_type`.
fn block_types(
    known: &[BlockType; 4],
    attention: &[BlockAttention],
    resampling: impl Fn(usize) -> Resampling,
) -> (Vec<String>, &'static str) {
    let name = |(level, attention): (usize, &BlockAttention)| {
        let fits =
            |(kind, way, _): &&BlockType| kind == attention && way.is_none_or(|way| way == resampling(level));
        known.iter().find(fits).map_or("", |(_, _, name)| *name).to_owned()
    };
    let attends = |level: &usize| attention[*level] != BlockAttention::None;
    let of_attending = (0..attention.len()).find(attends).map_or(Resampling::Conv, &resampling);
    let way = RESAMPLING.iter().find(|(_, way)| *way == of_attending).map_or("", |(name, _)| *name);
    (attention.iter().enumerate().map(name).collect(), way)
}

fn uses_favor(config: &UnetConfig) -> bool {
    config.mid_attention == BlockAttention::Favor || outer_blocks_use_favor(config)
}

fn outer_blocks_use_favor(config: &UnetConfig) -> bool {
    config.down_attention.iter().chain(&config.up_attention).any(|a| *a == BlockAttention::Favor)
}

/// The text of a `config.json`. diffusers loads it and builds the same network if no block is a FAVOR+ block,
/// and refuses it otherwise. The settings of FAVOR+ are written only where a block uses them.
pub(super) fn text(config: &UnetConfig) -> String {
    let (mut down, downsample_type) =
        block_types(&DOWN, &config.down_attention, |level| config.downsampling_of(level));
    let (up, upsample_type) = block_types(&UP, &config.up_attention, |level| config.upsampling_of(level));
    let shift = config.resnet_time_scale_shift;
    let shift = TIME_SCALE_SHIFT.iter().find(|(_, kind)| *kind == shift).map_or("", |(name, _)| *name);
    let favor_mid = config.mid_attention == BlockAttention::Favor;
    if favor_mid
        && !outer_blocks_use_favor(config)
        && let Some(last) = down.last_mut()
    {
        *last = format!("{FAVOR_MID_PREFIX}{last}");
    }
    let sample_size = match config.sample_size {
        [h, w] if h == w => json!(h),
        sides => json!(sides),
    };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("_class_name", json!("UNet2DModel"));
    put("act_fn", json!(config.act_fn.name()));
    put("add_attention", json!(config.mid_attention != BlockAttention::None));
    put("attention_head_dim", json!(config.attention_head_dim));
    put("attn_norm_num_groups", json!(config.attn_norm_num_groups));
    put("block_out_channels", json!(config.block_out_channels));
    put("center_input_sample", json!(config.center_input_sample));
    put("class_embed_type", Value::Null);
    put("down_block_types", json!(down));
    put("downsample_padding", json!(config.downsample_padding));
    put("downsample_type", json!(downsample_type));
    put("dropout", json!(config.dropout));
    put("flip_sin_to_cos", json!(config.flip_sin_to_cos));
    put("freq_shift", json!(config.freq_shift));
    put("in_channels", json!(config.in_channels));
    put("layers_per_block", json!(config.layers_per_block));
    put("mid_block_scale_factor", json!(config.mid_block_scale_factor));
    put("mid_block_type", json!(if favor_mid { FAVOR_MID } else { MID }));
    put("norm_eps", json!(config.norm_eps));
    put("norm_num_groups", json!(config.norm_num_groups));
    put("num_class_embeds", json!(config.num_class_embeds));
    put("num_train_timesteps", Value::Null);
    put("out_channels", json!(config.out_channels));
    put("resnet_time_scale_shift", json!(shift));
    put("sample_size", sample_size);
    put("time_embedding_dim", Value::Null);
    put("time_embedding_type", json!("positional"));
    put("up_block_types", json!(up));
    put("upsample_type", json!(upsample_type));
    if uses_favor(config) {
        put("favor", json!(config.favor));
    }
    if !config.class_names.is_empty() {
        let names =
            config.class_names.iter().enumerate().map(|(class, name)| (class.to_string(), json!(name)));
        put(ID2LABEL, Value::Object(names.collect()));
    }
    format!("{:#}\n", Value::Object(map))
}
