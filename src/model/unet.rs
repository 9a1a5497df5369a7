//! The U-Net: diffusers' `UNet2DModel` (Ho et al. 2020, appendix B), the only place where the architecture is
//! written.

use super::graph::{Graph, Op, Projection, ProjectionId, Shape, ValueId};
use super::params::{ParamId, ParamKind};
use crate::config::{Activation, BlockAttention, Resampling, TimeScaleShift, UnetConfig};
use crate::error::{Error, Result};

/// Builds the network of a configuration.
///
/// # Errors
/// What [`UnetConfig::validate`] finds; more parameters than this engine takes.
pub fn build(config: &UnetConfig) -> Result<Graph> {
    config.validate()?;
    let [h, w] = config.sample_size;
    let graph = Graph::new(Shape { h, w, c: config.in_channels });
    let graph = Builder { graph, config }.unet()?;
    let parameters = graph.params.total();
    if parameters > MOST_PARAMETERS {
        return Err(Error::invalid(
            "the network",
            format!("at most {MOST_PARAMETERS} parameters"),
            parameters.to_string(),
            "use fewer channels, levels or layers",
        ));
    }
    Ok(graph)
}

/// More would not fit the memory of machines that this engine is for.
const MOST_PARAMETERS: usize = 1 << if usize::BITS == 64 { 32 } else { 28 };

struct Builder<'a> {
    graph: Graph,
    config: &'a UnetConfig,
}

impl Builder<'_> {
    fn unet(mut self) -> Result<Graph> {
        let config = self.config;
        let channels = &config.block_out_channels;
        let levels = channels.len();

        let time = self.time_embedding()?;
        let mut x = self.graph.input;
        if config.center_input_sample {
            x = self.graph.push("center_input_sample", Op::Center, &[x])?;
        }
        x = self.conv("conv_in", x, channels[0], 1, (1, 1), false)?;
        let mut skips = vec![x];

        for level in 0..levels {
            let name = format!("down_blocks.{level}");
            for layer in 0..config.layers_per_block {
                let node = format!("{name}.resnets.{layer}");
                x = self.resnet(&node, x, time, channels[level], 1.0, None)?;
                let attention = format!("{name}.attentions.{layer}");
                let groups = Some(config.norm_num_groups);
                x = self.attention(&attention, x, config.down_attention[level], groups, 1.0)?;
                skips.push(x);
            }
            if level + 1 < levels {
                let (node, c) = (format!("{name}.downsamplers.0"), channels[level]);
                x = match config.downsampling_of(level) {
                    Resampling::Conv => {
                        let pad = if config.downsample_padding == 0 { (0, 1) } else { (1, 1) };
                        self.conv(&format!("{node}.conv"), x, c, 2, pad, false)?
                    }
                    Resampling::Resnet => self.resnet(&node, x, time, c, 1.0, Some(Op::AveragePool))?,
                };
                skips.push(x);
            }
        }

        let (last, scale) = (channels[levels - 1], 1.0 / config.mid_block_scale_factor);
        let groups = config.mid_attention_groups();
        x = self.resnet("mid_block.resnets.0", x, time, last, scale, None)?;
        x = self.attention("mid_block.attentions.0", x, config.mid_attention, groups, scale)?;
        x = self.resnet("mid_block.resnets.1", x, time, last, scale, None)?;

        for (up, level) in (0..levels).rev().enumerate() {
            let name = format!("up_blocks.{up}");
            for layer in 0..=config.layers_per_block {
                let skip = skips.pop().expect("as many residual blocks up as skips down");
                let node = format!("{name}.resnets.{layer}");
                x = self.graph.push(&format!("{node}.concat"), Op::Concat, &[x, skip])?;
                x = self.resnet(&node, x, time, channels[level], 1.0, None)?;
                let attention = format!("{name}.attentions.{layer}");
                let groups = Some(config.norm_num_groups);
                x = self.attention(&attention, x, config.up_attention[up], groups, 1.0)?;
            }
            if level > 0 {
                let node = format!("{name}.upsamplers.0");
                x = match config.upsampling_of(up) {
                    Resampling::Conv => {
                        let x = self.graph.push(&node, Op::Upsample, &[x])?;
                        self.conv(&format!("{node}.conv"), x, channels[level], 1, (1, 1), false)?
                    }
                    Resampling::Resnet => {
                        self.resnet(&node, x, time, channels[level], 1.0, Some(Op::Upsample))?
                    }
                };
            }
        }

        x = self.norm("conv_norm_out", x, config.norm_num_groups, true)?;
        self.conv("conv_out", x, config.out_channels, 1, (1, 1), true)?;
        Ok(self.graph)
    }

    /// The timestep's sinusoids through two linear layers, plus the class's vector where the network takes
    /// classes, and the activation before every block's projection (computed once).
    fn time_embedding(&mut self) -> Result<ValueId> {
        let dim = self.config.block_out_channels[0];
        let op = Op::TimeEmbedding {
            flip_sin_to_cos: self.config.flip_sin_to_cos,
            freq_shift: self.config.freq_shift,
        };
        let t = self.graph.push_time_embedding("time_proj", op, dim);
        let t = self.linear("time_embedding.linear_1", t, 4 * dim, false)?;
        let t = self.graph.push("time_embedding.act", Op::Activate { function: Activation::Silu }, &[t])?;
        let mut t = self.linear("time_embedding.linear_2", t, 4 * dim, false)?;
        if let Some(rows) = self.config.num_class_embeds {
            let kind = ParamKind::Embedding { rows, dim: 4 * dim };
            let weight = self.graph.params.add("class_embedding.weight".to_owned(), kind, false);
            let class = self.graph.push("class_embedding", Op::ClassEmbedding { weight }, &[])?;
            t = self.graph.push("class_embedding.add", Op::Add { scale: 1.0 }, &[t, class])?;
        }
        let function = self.config.act_fn;
        self.graph.push(&format!("time_embedding.{}", function.name()), Op::Activate { function }, &[t])
    }

    /// A residual block. `resample`, which changes the resolution, acts on the block's input and, behind the
    /// first activation, on its other branch.
    fn resnet(
        &mut self,
        name: &str,
        mut x: ValueId,
        time: ValueId,
        c_out: usize,
        scale: f64,
        resample: Option<Op>,
    ) -> Result<ValueId> {
        let c_in = self.graph.shape(x).c;
        let groups = self.config.norm_num_groups;
        let mut h = self.norm_and_activation(name, "norm1", x)?;
        if let Some(op) = resample {
            h = self.graph.push(&format!("{name}.resample"), op.clone(), &[h])?;
            x = self.graph.push(&format!("{name}.resample_input"), op, &[x])?;
        }
        h = self.conv(&format!("{name}.conv1"), h, c_out, 1, (1, 1), false)?;
        let projection = format!("{name}.time_emb_proj");
        h = match self.config.resnet_time_scale_shift {
            TimeScaleShift::Default => {
                let t = self.linear(&projection, time, c_out, false)?;
                h = self.graph.push(&format!("{name}.add_time"), Op::AddChannels, &[h, t])?;
                self.norm_and_activation(name, "norm2", h)?
            }
            TimeScaleShift::ScaleShift => {
                let t = self.linear(&projection, time, 2 * c_out, false)?;
                h = self.norm(&format!("{name}.norm2"), h, groups, false)?;
                h = self.graph.push(&format!("{name}.scale_shift"), Op::ScaleShift, &[h, t])?;
                let function = self.config.act_fn;
                self.graph.push(&format!("{name}.norm2.act"), Op::Activate { function }, &[h])?
            }
        };
        if self.config.dropout > 0.0 {
            let op = Op::Dropout { p: self.config.dropout, index: self.graph.dropouts };
            self.graph.dropouts += 1;
            h = self.graph.push(&format!("{name}.dropout"), op, &[h])?;
        }
        h = self.conv(&format!("{name}.conv2"), h, c_out, 1, (1, 1), true)?;
        let shortcut = if c_in == c_out {
            x
        } else {
            let kind = ParamKind::Conv { kernel: 1, c_in, c_out };
            let (weight, bias) = self.weight_and_bias(&format!("{name}.conv_shortcut"), kind, c_out, false);
            self.graph.push(&format!("{name}.conv_shortcut"), Op::Linear { weight, bias }, &[x])?
        };
        self.graph.push(&format!("{name}.add"), Op::Add { scale }, &[shortcut, h])
    }

    fn attention(
        &mut self,
        name: &str,
        x: ValueId,
        block: BlockAttention,
        groups: Option<usize>,
        scale: f64,
    ) -> Result<ValueId> {
        let c = self.graph.shape(x).c;
        let dim = self.config.attention_head_dim.unwrap_or(c);
        let Some(kind) = self.config.attention_kind(block) else { return Ok(x) };
        let projection = kind.map().map(|_| {
            let (name, features) = (format!("{name}.projection"), self.config.favor.features);
            self.graph.projections.push(Projection { name, features, dim });
            ProjectionId(self.graph.projections.len() - 1)
        });
        let h = match groups {
            Some(groups) => self.norm(&format!("{name}.group_norm"), x, groups, false)?,
            None => x,
        };
        let q = self.linear(&format!("{name}.to_q"), h, c, false)?;
        let k = self.linear(&format!("{name}.to_k"), h, c, false)?;
        let v = self.linear(&format!("{name}.to_v"), h, c, false)?;
        let h = self.graph.push(name, Op::Attention { heads: c / dim, kind, projection }, &[q, k, v])?;
        let h = self.linear(&format!("{name}.to_out.0"), h, c, true)?;
        self.graph.push(&format!("{name}.add"), Op::Add { scale }, &[x, h])
    }

    fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        c_out: usize,
        stride: usize,
        (pad_before, pad_after): (usize, usize),
        zero: bool,
    ) -> Result<ValueId> {
        let kind = ParamKind::Conv { kernel: 3, c_in: self.graph.shape(x).c, c_out };
        let (weight, bias) = self.weight_and_bias(name, kind, c_out, zero);
        self.graph.push(name, Op::Conv { weight, bias, kernel: 3, stride, pad_before, pad_after }, &[x])
    }

    fn linear(&mut self, name: &str, x: ValueId, c_out: usize, zero: bool) -> Result<ValueId> {
        let kind = ParamKind::Linear { c_in: self.graph.shape(x).c, c_out };
        let (weight, bias) = self.weight_and_bias(name, kind, c_out, zero);
        self.graph.push(name, Op::Linear { weight, bias }, &[x])
    }

    /// A residual block's normalisation and the activation behind it, in one operation where that is SiLU.
    fn norm_and_activation(&mut self, block: &str, norm: &str, x: ValueId) -> Result<ValueId> {
        let (name, function) = (format!("{block}.{norm}"), self.config.act_fn);
        let fused = function == Activation::Silu;
        let h = self.norm(&name, x, self.config.norm_num_groups, fused)?;
        if fused {
            return Ok(h);
        }
        self.graph.push(&format!("{name}.act"), Op::Activate { function }, &[h])
    }

    fn norm(&mut self, name: &str, x: ValueId, groups: usize, silu: bool) -> Result<ValueId> {
        let len = self.graph.shape(x).c;
        let weight = self.graph.params.add(format!("{name}.weight"), ParamKind::Scale { len }, false);
        let bias = self.graph.params.add(format!("{name}.bias"), ParamKind::Bias { len }, false);
        self.graph.push(name, Op::GroupNorm { weight, bias, groups, eps: self.config.norm_eps, silu }, &[x])
    }

    fn weight_and_bias(
        &mut self,
        name: &str,
        kind: ParamKind,
        c_out: usize,
        zero: bool,
    ) -> (ParamId, ParamId) {
        let weight = self.graph.params.add(format!("{name}.weight"), kind, zero);
        let bias = self.graph.params.add(format!("{name}.bias"), ParamKind::Bias { len: c_out }, false);
        (weight, bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    /// 35,746,307 is what diffusers counts for Ho et al.'s CIFAR-10 network, and 35.7 million what the paper
    /// says.
    #[test]
    fn ho_et_al_s_network_has_its_number_of_parameters() {
        let graph = build(&Preset::Cifar10.config().unet).expect("a network");
        assert_eq!(graph.params.total(), 35_746_307);
    }

    #[test]
    fn presets_give_a_normalisation_group_at_least_four_channels() {
        for preset in Preset::ALL {
            let graph = build(&preset.config().unet).expect("a network");
            for node in &graph.nodes {
                if let Op::GroupNorm { groups, .. } = node.op {
                    assert!(graph.shape(node.inputs[0]).c / groups >= 4, "{preset:?} {}", node.name);
                }
            }
        }
    }

    #[test]
    fn sizes_that_the_levels_cannot_halve_are_refused_with_those_that_work() {
        let mut config = Preset::Fashion.config().unet;
        config.sample_size = [28, 30];
        let message = build(&config).expect_err("30 is not divisible by 4").to_string();
        assert!(message.contains("28 or 32") && message.contains("28 x 30"), "{message}");
        config.sample_size = [20, 36];
        assert_eq!(
            build(&config).expect("both divisible by 4").shape(ValueId(0)),
            Shape { h: 20, w: 36, c: 1 }
        );
    }
}
