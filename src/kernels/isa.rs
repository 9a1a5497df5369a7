//! Which instruction set the kernels use: detected in this one place, then passed around as a value.

use std::fmt;
use std::str::FromStr;

/// An instruction set for the `f32` kernels, one that this processor has.
///
/// The variants that need features of the processor carry a proof, each of a type of its own, which only this
/// file can make and makes only where the features were detected. So whoever holds an `Isa` can run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// The plain text that auditors read, compiled for the baseline processor.
    Reference,
    /// The vector code on eight-element arrays; correct everywhere, vectorised by the compiler.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2(HasAvx2),
    /// 512-bit vectors.
    Avx512(HasAvx512),
    /// 128-bit vectors of a 64-bit Arm processor.
    Neon(HasNeon),
    /// 128-bit vectors of WebAssembly.
    Simd128(HasSimd128),
}

/// The proof that this processor has AVX2 and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HasAvx2(());

/// The proof that this processor has AVX2, FMA and AVX-512F.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HasAvx512(());

/// The proof that this processor has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HasNeon(());

/// The proof that this program was compiled to WebAssembly with SIMD128, which no engine without it loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HasSimd128(());

impl Isa {
    /// Every instruction set this processor can run, slowest first.
    pub fn available() -> Vec<Isa> {
        let avx2 = HasAvx2::detect().map(Isa::Avx2);
        let avx512 = HasAvx512::detect().map(Isa::Avx512);
        let neon = HasNeon::detect().map(Isa::Neon);
        let simd128 = HasSimd128::detect().map(Isa::Simd128);
        let everywhere = [Isa::Reference, Isa::Portable].into_iter();
        everywhere.chain(avx2).chain(avx512).chain(neon).chain(simd128).collect()
    }

    /// The fastest one this processor can run.
    pub fn detect() -> Isa {
        *Self::available().last().expect("the reference runs everywhere")
    }

    /// Its name, which the command line's `--isa` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Reference => "reference",
            Isa::Portable => "portable",
            Isa::Avx2(_) => "avx2",
            Isa::Avx512(_) => "avx512",
            Isa::Neon(_) => "neon",
            Isa::Simd128(_) => "simd128",
        }
    }
}

impl HasAvx2 {
    fn detect() -> Option<HasAvx2> {
        #[cfg(target_arch = "x86_64")]
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found.then_some(HasAvx2(()))
    }
}

impl HasAvx512 {
    fn detect() -> Option<HasAvx512> {
        #[cfg(target_arch = "x86_64")]
        let found = HasAvx2::detect().is_some() && is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found.then_some(HasAvx512(()))
    }
}

impl HasNeon {
    fn detect() -> Option<HasNeon> {
        #[cfg(target_arch = "aarch64")]
        let found = std::arch::is_aarch64_feature_detected!("neon");
        #[cfg(not(target_arch = "aarch64"))]
        let found = false;
        found.then_some(HasNeon(()))
    }
}

impl HasSimd128 {
    fn detect() -> Option<HasSimd128> {
        cfg!(all(target_arch = "wasm32", target_feature = "simd128")).then_some(HasSimd128(()))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    /// The instruction set of that name; an error where this processor does not have it.
    fn from_str(name: &str) -> Result<Isa, String> {
        let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
        Isa::available()
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| format!("expected one of {} on this processor, got {name}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_what_is_available_and_nothing_else() {
        let available = Isa::available();
        for name in ["reference", "portable", "avx2", "avx512", "AVX2", "neon", "simd128", ""] {
            let found = available.iter().find(|isa| isa.name() == name).copied();
            assert_eq!(name.parse().ok(), found, "{name}");
        }
        assert_eq!(available[..2], [Isa::Reference, Isa::Portable]);
        assert_eq!(available.last(), Some(&Isa::detect()));
    }
}
