//! Configurations by name.

use super::{
    Activation, Averaging, BetaSchedule, BlockAttention, Config, DataConfig, DiffusionConfig, FavorConfig,
    FeatureMap, LossWeight, LrDecay, MuonConfig, OnNan, TimeScaleShift, TimestepSampling, TrainConfig,
    UnetConfig,
};
use BlockAttention::{Favor, None as Plain, Softmax};

/// A named configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// 28x28 grey garments, FAVOR+ at 28x28 and 14x14: a network and a run for about ten minutes on two
    /// cores.
    Fashion,
    /// The same with softmax attention.
    FashionSoftmax,
    /// A run of one minute on the same images: softmax attention at 7x7 alone, so that a minute holds one and
    /// a half times as many steps.
    FashionMinute,
    /// A run of an hour on such images, for Fashion-MNIST's 60,000: the network of [`Preset::Fashion`] with
    /// half as many channels again.
    FashionHour,
    /// An hour on 32x32 colour pictures, CIFAR-10 or one's own: a network for two cores, FAVOR+ at 16x16.
    Cifar10Small,
    /// Ho et al.'s 35.7M-parameter network for CIFAR-10.
    Cifar10,
    /// A few thousand parameters, for tests.
    Tiny,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Preset; 7] = [
        Preset::Fashion,
        Preset::FashionSoftmax,
        Preset::FashionMinute,
        Preset::FashionHour,
        Preset::Cifar10Small,
        Preset::Cifar10,
        Preset::Tiny,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Fashion => "fashion",
            Preset::FashionSoftmax => "fashion-softmax",
            Preset::FashionMinute => "fashion-1min",
            Preset::FashionHour => "fashion-1h",
            Preset::Cifar10Small => "cifar10-small",
            Preset::Cifar10 => "cifar10",
            Preset::Tiny => "tiny",
        }
    }

    /// Its configuration.
    pub fn config(self) -> Config {
        match self {
            Preset::Fashion => fashion(Favor),
            Preset::FashionSoftmax => fashion(Softmax),
            Preset::FashionMinute => fashion_minute(),
            Preset::FashionHour => fashion_hour(),
            Preset::Cifar10Small => cifar10_small(),
            Preset::Cifar10 => cifar10(),
            Preset::Tiny => tiny(),
        }
    }
}

fn unet() -> UnetConfig {
    UnetConfig {
        sample_size: [28, 28],
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![32, 64, 64],
        layers_per_block: 1,
        down_attention: vec![Plain; 3],
        mid_attention: Plain,
        up_attention: vec![Plain; 3],
        attention_head_dim: Some(16),
        favor: FavorConfig::default(),
        norm_num_groups: 8,
        attn_norm_num_groups: None,
        norm_eps: 1e-6,
        downsample_padding: 0,
        flip_sin_to_cos: false,
        freq_shift: 1.0,
        mid_block_scale_factor: 1.0,
        dropout: 0.0,
        act_fn: Activation::Silu,
        resnet_time_scale_shift: TimeScaleShift::Default,
        downsampling: Vec::new(),
        upsampling: Vec::new(),
        center_input_sample: false,
        num_class_embeds: None,
        class_names: Vec::new(),
    }
}

fn fashion(kind: BlockAttention) -> Config {
    Config {
        unet: UnetConfig {
            down_attention: vec![kind, kind, Plain],
            mid_attention: Softmax,
            up_attention: vec![Plain, kind, kind],
            favor: FavorConfig { map: FeatureMap::Positive, features: 32, ..FavorConfig::default() },
            ..unet()
        },
        diffusion: DiffusionConfig::default(),
        train: TrainConfig {
            batch: 16,
            steps: None,
            minutes: Some(10.0),
            seed: 0,
            lr: 1.5e-3,
            warmup_steps: 100,
            lr_decay: LrDecay::Linear { from: 0.0 },
            beta1: 0.9,
            beta2: 0.99,
            adam_eps: 1e-8,
            muon: Some(MuonConfig { momentum: 0.95, rate: 1.0 }),
            clip_norm: 1.0,
            average: Averaging::Power { width: 0.1 },
            flip: true,
            loss_weight: LossWeight::None,
            timesteps: TimestepSampling::Uniform,
            drop_label: 0.0,
            checkpoint_every: 400,
            grids: 3,
            on_nan: OnNan::Stop,
            halved: Vec::new(),
            plan: Vec::new(),
        },
        data: DataConfig::default(),
        runtime: None,
    }
}

fn fashion_minute() -> Config {
    let config = fashion(Plain);
    Config { train: TrainConfig { minutes: Some(1.0), warmup_steps: 30, ..config.train }, ..config }
}

fn fashion_hour() -> Config {
    let config = fashion(Favor);
    Config {
        unet: UnetConfig { block_out_channels: vec![48, 96, 96], ..config.unet },
        train: TrainConfig { minutes: Some(60.0), warmup_steps: 300, ..config.train },
        ..config
    }
}

fn cifar10_small() -> Config {
    let config = fashion(Favor);
    Config {
        unet: UnetConfig {
            sample_size: [32, 32],
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![48, 96, 96],
            down_attention: vec![Plain, Favor, Plain],
            up_attention: vec![Plain, Favor, Plain],
            dropout: 0.1,
            ..config.unet
        },
        train: TrainConfig { minutes: Some(60.0), warmup_steps: 300, ..config.train },
        ..config
    }
}

fn cifar10() -> Config {
    Config {
        unet: UnetConfig {
            sample_size: [32, 32],
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 256, 256],
            layers_per_block: 2,
            down_attention: vec![Plain, Softmax, Plain, Plain],
            mid_attention: Softmax,
            up_attention: vec![Plain, Plain, Softmax, Plain],
            attention_head_dim: None,
            norm_num_groups: 32,
            dropout: 0.1,
            ..unet()
        },
        diffusion: DiffusionConfig::default(),
        train: TrainConfig {
            batch: 128,
            steps: Some(800_000),
            minutes: None,
            seed: 0,
            lr: 2e-4,
            warmup_steps: 5000,
            lr_decay: LrDecay::Constant,
            beta1: 0.9,
            beta2: 0.999,
            adam_eps: 1e-8,
            muon: None,
            clip_norm: 1.0,
            average: Averaging::Exponential { decay: 0.9999 },
            flip: true,
            loss_weight: LossWeight::None,
            timesteps: TimestepSampling::Uniform,
            drop_label: 0.0,
            checkpoint_every: 1000,
            grids: 160,
            on_nan: OnNan::Stop,
            halved: Vec::new(),
            plan: Vec::new(),
        },
        data: DataConfig::default(),
        runtime: None,
    }
}

fn tiny() -> Config {
    let config = fashion(Favor);
    Config {
        unet: UnetConfig {
            block_out_channels: vec![8, 16],
            down_attention: vec![Plain, Favor],
            mid_attention: Softmax,
            up_attention: vec![Favor, Plain],
            attention_head_dim: Some(8),
            favor: FavorConfig { features: 16, ..FavorConfig::default() },
            norm_num_groups: 2,
            ..unet()
        },
        diffusion: DiffusionConfig {
            timesteps: 100,
            schedule: BetaSchedule::Cosine,
            ..DiffusionConfig::default()
        },
        // A constant rate: a run that is lengthened has the same bits as one that was as long from the start.
        train: TrainConfig {
            batch: 8,
            steps: Some(40),
            minutes: None,
            warmup_steps: 20,
            lr_decay: LrDecay::Constant,
            checkpoint_every: 10,
            grids: 2,
            ..config.train
        },
        data: config.data,
        runtime: None,
    }
}
