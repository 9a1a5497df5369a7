//! What the kernels run on and how they convolve: chosen once, then passed around as a value.

use super::Isa;
use std::fmt;
use std::str::FromStr;

/// How `f32` convolutions with 3x3 kernels and stride 1 are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConvAlgorithm {
    /// The definition: nine products for every pixel and pair of channels.
    Direct,
    /// Winograd's minimal filtering where it is faster: a quarter of the products, and slightly larger
    /// rounding errors.
    #[default]
    Winograd,
}

impl ConvAlgorithm {
    /// Both.
    pub const ALL: [ConvAlgorithm; 2] = [ConvAlgorithm::Direct, ConvAlgorithm::Winograd];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ConvAlgorithm::Direct => "direct",
            ConvAlgorithm::Winograd => "winograd",
        }
    }
}

impl fmt::Display for ConvAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ConvAlgorithm {
    type Err = String;

    fn from_str(name: &str) -> Result<ConvAlgorithm, String> {
        Self::ALL
            .into_iter()
            .find(|conv| conv.name() == name)
            .ok_or_else(|| format!("expected direct or winograd, got {name}"))
    }
}

/// The choices that change the bits of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernels {
    /// The instruction set.
    pub isa: Isa,
    /// The convolutions' algorithm.
    pub conv: ConvAlgorithm,
}

impl Default for Kernels {
    /// The fastest on this processor.
    fn default() -> Kernels {
        Isa::detect().into()
    }
}

impl From<Isa> for Kernels {
    /// The default algorithms on an instruction set.
    fn from(isa: Isa) -> Kernels {
        Kernels { isa, conv: ConvAlgorithm::default() }
    }
}
