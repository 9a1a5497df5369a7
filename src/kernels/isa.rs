//! Which instruction set the kernels use: detected in this one place, then passed around as a value.

use std::fmt;
use std::str::FromStr;

/// An instruction set for the `f32` kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// The plain text that auditors read, compiled for the baseline processor.
    Reference,
    /// The vector code on eight-element arrays; correct everywhere, vectorised by the compiler.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Isa {
    /// Every instruction set this processor can run, slowest first.
    pub fn available() -> Vec<Isa> {
        [Isa::Reference, Isa::Portable, Isa::Avx2, Isa::Avx512]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The fastest one this processor can run.
    pub fn detect() -> Isa {
        *Self::available().last().expect("the reference runs everywhere")
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Reference | Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Isa::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// The name that `--isa` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Reference => "reference",
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Isa, String> {
        let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
        Isa::available()
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| format!("expected one of {} on this processor, got {name}", names.join(", ")))
    }
}
