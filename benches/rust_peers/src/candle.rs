//! The block in candle, on its CPU backend.

use crate::block::{Block, EPS, Found, GROUPS, Peer, Sizes, squares};
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, Module, loss::mse, ops::silu};

/// The block's layers and inputs.
struct Layers {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    x: Tensor,
    time: Tensor,
}

pub struct Candle {
    plain: Layers,
    differentiated: Layers,
    target: Tensor,
    last: Option<(Tensor, GradStore)>,
}

impl Candle {
    pub fn new(block: &Block) -> Result<Candle> {
        let Sizes { batch, c_out, side, .. } = block.sizes;
        Ok(Candle {
            plain: Layers::new(block, Ok)?,
            differentiated: Layers::new(block, |tensor| Ok(Var::from_tensor(&tensor)?.into_inner()))?,
            target: Tensor::from_slice(&block.target, &[batch, c_out, side, side], &Device::Cpu)?,
            last: None,
        })
    }

    fn loss_and_gradients(&self) -> Result<(Tensor, GradStore)> {
        let loss = mse(&self.differentiated.output()?, &self.target)?;
        let gradients = loss.backward()?;
        Ok((loss, gradients))
    }
}

impl Layers {
    /// Layers whose parameters and input are made by `variable`: operations on variables are recorded for the
    /// gradients.
    fn new(block: &Block, variable: impl Fn(Tensor) -> Result<Tensor>) -> Result<Layers> {
        let sizes = block.sizes;
        let tensor = |numbers: &[f32], shape: &[usize]| Tensor::from_slice(numbers, shape, &Device::Cpu);
        let parameter = |name: &str| -> Result<Tensor> {
            let (shape, numbers) = block.parameter(name).expect("one of the block's parameters");
            variable(tensor(&numbers, &shape)?)
        };
        let conv = |name: &str, padding: usize| -> Result<Conv2d> {
            let config = Conv2dConfig { padding, ..Conv2dConfig::default() };
            let [weight, bias] = [parameter(&format!("{name}.weight"))?, parameter(&format!("{name}.bias"))?];
            Ok(Conv2d::new(weight, Some(bias), config))
        };
        let norm = |name: &str, channels: usize| {
            let [weight, bias] = [parameter(&format!("{name}.weight"))?, parameter(&format!("{name}.bias"))?];
            GroupNorm::new(weight, bias, channels, GROUPS, EPS)
        };
        let has_shortcut = block.parameter("conv_shortcut.weight").is_some();
        Ok(Layers {
            norm1: norm("norm1", sizes.c_in)?,
            conv1: conv("conv1", 1)?,
            time_proj: Linear::new(
                parameter("time_emb_proj.weight")?,
                Some(parameter("time_emb_proj.bias")?),
            ),
            norm2: norm("norm2", sizes.c_out)?,
            conv2: conv("conv2", 1)?,
            shortcut: has_shortcut.then(|| conv("conv_shortcut", 0)).transpose()?,
            x: variable(tensor(&block.x, &[sizes.batch, sizes.c_in, sizes.side, sizes.side])?)?,
            time: tensor(&block.time.repeat(sizes.batch), &[sizes.batch, block.time.len()])?,
        })
    }

    fn output(&self) -> Result<Tensor> {
        let x = &self.x;
        let h = self.conv1.forward(&silu(&self.norm1.forward(x)?)?)?;
        let time = self.time_proj.forward(&self.time)?.unsqueeze(2)?.unsqueeze(3)?;
        let h = h.broadcast_add(&time)?;
        let h = self.conv2.forward(&silu(&self.norm2.forward(&h)?)?)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)? + h,
            None => x + h,
        }
    }
}

impl Peer for Candle {
    fn name(&self) -> String {
        "candle 0.11.1 (CPU, gemm)".to_owned()
    }

    fn forward(&mut self) {
        std::hint::black_box(self.plain.output().expect("the block fits"));
    }

    fn forward_backward(&mut self) {
        self.last = Some(self.loss_and_gradients().expect("the block fits"));
    }

    fn found(&self) -> Found {
        let (loss, gradients) = self.last.as_ref().expect("a pass before");
        let layers = &self.differentiated;
        let squares = |of: &Tensor| -> Result<f64> {
            let gradient = gradients.get(of).expect("a variable's gradient");
            Ok(squares(&gradient.flatten_all()?.to_vec1()?))
        };
        let [d_x, d_weight] = [&layers.x, layers.conv1.weight()].map(|of| squares(of).expect("numbers"));
        Found { loss: loss.to_scalar::<f32>().expect("a number").into(), gradients: [d_x, d_weight] }
    }
}
