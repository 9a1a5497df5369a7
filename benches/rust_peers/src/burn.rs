//! The block in burn, on one of its CPU backends.

use crate::block::{Block, EPS, Found, GROUPS, Peer, squares};
use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{MseLoss, Reduction};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Gradients, Tensor, TensorData};

/// The block's layers on a device.
struct Layers {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    x: Tensor<4>,
    time: Tensor<2>,
    target: Tensor<4>,
}

pub struct Burn {
    name: String,
    device: Device,
    plain: Layers,
    differentiated: Layers,
    last: Option<(Tensor<1>, Gradients)>,
}

impl Burn {
    pub fn new(block: &Block, name: &str, device: Device) -> Burn {
        let mut differentiated = Layers::new(block, &device.clone().autodiff());
        differentiated.x = differentiated.x.require_grad();
        Burn { name: name.to_owned(), plain: Layers::new(block, &device), differentiated, device, last: None }
    }

    fn wait(&self) {
        self.device.sync().expect("the device answers");
    }
}

impl Layers {
    fn new(block: &Block, device: &Device) -> Layers {
        let sizes = block.sizes;
        fn tensor<const D: usize>(numbers: Vec<f32>, shape: &[usize], device: &Device) -> Tensor<D> {
            Tensor::from_data(TensorData::new(numbers, shape.to_vec()), device)
        }
        fn parameter<const D: usize>(block: &Block, name: &str, device: &Device) -> Param<Tensor<D>> {
            let (shape, numbers) = block.parameter(name).expect("one of the block's parameters");
            Param::from_tensor(tensor(numbers, &shape, device))
        }
        let conv = |name: &str, c_in: usize, kernel: usize| {
            let padding = kernel / 2;
            let config = Conv2dConfig::new([c_in, sizes.c_out], [kernel; 2])
                .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding));
            let mut conv = config.init(device);
            conv.weight = parameter(block, &format!("{name}.weight"), device);
            conv.bias = Some(parameter(block, &format!("{name}.bias"), device));
            conv
        };
        let norm = |name: &str, channels: usize| {
            let mut norm = GroupNormConfig::new(GROUPS, channels).with_epsilon(EPS).init(device);
            norm.gamma = Some(parameter(block, &format!("{name}.weight"), device));
            norm.beta = Some(parameter(block, &format!("{name}.bias"), device));
            norm
        };
        let mut time_proj = LinearConfig::new(block.time.len(), sizes.c_out).init(device);
        // burn keeps a linear layer's weight as [in, out], PyTorch as [out, in].
        let (_, weight) = block.parameter("time_emb_proj.weight").expect("one of the block's parameters");
        let (rows, columns) = (block.time.len(), sizes.c_out);
        let turned = (0..weight.len()).map(|i| weight[i % columns * rows + i / columns]).collect();
        time_proj.weight = Param::from_tensor(tensor(turned, &[rows, columns], device));
        time_proj.bias = Some(parameter(block, "time_emb_proj.bias", device));
        let image = |channels: usize| [sizes.batch, channels, sizes.side, sizes.side];
        let has_shortcut = block.parameter("conv_shortcut.weight").is_some();
        Layers {
            norm1: norm("norm1", sizes.c_in),
            conv1: conv("conv1", sizes.c_in, 3),
            time_proj,
            norm2: norm("norm2", sizes.c_out),
            conv2: conv("conv2", sizes.c_out, 3),
            shortcut: has_shortcut.then(|| conv("conv_shortcut", sizes.c_in, 1)),
            x: tensor(block.x.clone(), &image(sizes.c_in), device),
            time: tensor(block.time.repeat(sizes.batch), &[sizes.batch, block.time.len()], device),
            target: tensor(block.target.clone(), &image(sizes.c_out), device),
        }
    }

    fn output(&self) -> Tensor<4> {
        let h = self.conv1.forward(silu(self.norm1.forward(self.x.clone())));
        let h = h + self.time_proj.forward(self.time.clone()).unsqueeze_dims(&[2, 3]);
        let h = self.conv2.forward(silu(self.norm2.forward(h)));
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(self.x.clone()) + h,
            None => self.x.clone() + h,
        }
    }
}

impl Peer for Burn {
    fn name(&self) -> String {
        format!("burn 0.22.1 ({})", self.name)
    }

    fn forward(&mut self) {
        std::hint::black_box(self.plain.output());
        self.wait();
    }

    fn forward_backward(&mut self) {
        let layers = &self.differentiated;
        let loss = MseLoss::new().forward(layers.output(), layers.target.clone(), Reduction::Mean);
        let gradients = loss.backward();
        self.last = Some((loss, gradients));
        self.wait();
    }

    fn found(&self) -> Found {
        let (loss, gradients) = self.last.as_ref().expect("a pass before");
        let squares = |gradient: Option<Tensor<4>>| {
            let gradient = gradient.expect("a variable's gradient").into_data();
            squares(gradient.as_slice::<f32>().expect("numbers"))
        };
        let layers = &self.differentiated;
        Found {
            loss: f64::from(loss.clone().into_scalar::<f32>()),
            gradients: [
                squares(layers.x.grad(gradients)),
                squares(layers.conv1.weight.val().grad(gradients)),
            ],
        }
    }
}
