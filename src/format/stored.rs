//! Types of stored weights: the one place where bytes become numbers and numbers become bytes.

use std::fmt;
use std::str::FromStr;

use ::safetensors::Dtype as FileType;
use half::{bf16, f16};

use super::blocks::{self, Blocks};
use crate::error::{Error, Result};

// Types that only GGUF files have are there with the feature `gguf`, but for those that matrices are packed in most.
macro_rules! types {
    (elements { $($(#[$doc:meta])* $element:ident $size:literal $name:literal,)* } blocks { $($(#[$block_doc:meta])* $block:ident $blocks:path $(=> $feature:tt)?,)* }) => {
        /// What a file stores for a weight: elements, or blocks of weights with scales in common. What a kernel reads is a
        /// [`WeightFormat`](crate::kernels::WeightFormat).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum StoredType {
            $($(#[$doc])* $element,)*
            $($(#[$block_doc])* $(#[cfg(feature = $feature)])? $block,)*
        }

        impl StoredType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$element,)* $($(#[cfg(feature = $feature)])? Self::$block,)*];

            /// The types of single elements: those that safetensors files have.
            pub const ELEMENTS: &[Self] = &[$(Self::$element,)*];

            /// The format of blocks, unless elements stand alone.
            pub(crate) fn blocks(self) -> Option<&'static Blocks> {
                match self {
                    $(Self::$element => None,)*
                    $($(#[cfg(feature = $feature)])? Self::$block => Some(&$blocks),)*
                }
            }

            /// The name in safetensors and GGUF files: `F32`, `Q4_K`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$element => $name,)*
                    $($(#[cfg(feature = $feature)])? Self::$block => $blocks.name,)*
                }
            }

            /// The neighbouring weights of a row that are stored together, 1 for elements, and their bytes.
            pub fn unit(self) -> (usize, usize) {
                match self {
                    $(Self::$element => (1, $size),)*
                    $($(#[cfg(feature = $feature)])? Self::$block => ($blocks.weights, $blocks.bytes),)*
                }
            }
        }
    };
}

types! {
    elements {
    /// IEEE single precision.
    F32 4 "F32",
    /// IEEE half precision.
    F16 2 "F16",
    /// The upper half of a single.
    BF16 2 "BF16",
    }
    blocks {
    /// Two bits a weight, scales and minima of 16.
    Q2K blocks::Q2_K => "gguf",
    /// Three bits a weight, scales of 16.
    Q3K blocks::Q3_K => "gguf",
    /// Four bits a weight, a scale of 32.
    Q4_0 blocks::Q4_0,
    /// Four bits a weight, a scale and a least value of 32.
    Q4_1 blocks::Q4_1 => "gguf",
    /// Four bits a weight, scales and minima of 32.
    Q4K blocks::Q4_K,
    /// Five bits a weight, a scale of 32.
    Q5_0 blocks::Q5_0 => "gguf",
    /// Five bits a weight, a scale and a least value of 32.
    Q5_1 blocks::Q5_1 => "gguf",
    /// Five bits a weight, scales and minima of 32.
    Q5K blocks::Q5_K => "gguf",
    /// Six bits a weight, scales of 16.
    Q6K blocks::Q6_K,
    /// Eight bits a weight, a scale of 32.
    Q8_0 blocks::Q8_0,
    /// Places in a table of 16 numbers, a scale of 32.
    Iq4Nl blocks::IQ4_NL => "gguf",
    /// Places in a table of 16 numbers, scales of 32.
    Iq4Xs blocks::IQ4_XS => "gguf",
    /// Floats of four bits, a power of two of 32.
    Mxfp4 blocks::MXFP4 => "gguf",
    }
}

impl StoredType {
    /// The type that safetensors files call so, if the engine reads it.
    pub(crate) fn from_file(stored: FileType) -> Option<Self> {
        Self::ELEMENTS.iter().copied().find(|known| known.in_file() == Some(stored))
    }

    /// The type as safetensors files call it.
    pub(crate) fn in_file(self) -> Option<FileType> {
        match self {
            Self::F32 => Some(FileType::F32),
            Self::F16 => Some(FileType::F16),
            Self::BF16 => Some(FileType::BF16),
            _ => None,
        }
    }

    /// Bytes of `count` weights, a whole number of units.
    pub(crate) fn bytes_of(self, count: usize) -> usize {
        let (weights, bytes) = self.unit();
        count / weights * bytes
    }

    /// Weights that `bytes` bytes hold.
    pub(crate) fn count_in(self, bytes: u64) -> u64 {
        let (weights, unit) = self.unit();
        bytes / unit as u64 * weights as u64
    }

    /// Numbers of elements, little endian.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => self.blocks().map_or_else(Vec::new, |blocks| blocks.decode(bytes)),
        }
    }

    /// Elements of numbers, little endian, rounded to the nearest.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            _ => self.blocks().map_or_else(Vec::new, |blocks| blocks.encoded(values)),
        }
    }

    /// Whether elements hold neither a NaN nor an infinity.
    pub(crate) fn all_finite(self, bytes: &[u8]) -> bool {
        match self {
            Self::F32 => all_finite::<4>(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000),
            Self::F16 => all_finite::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
            Self::BF16 => all_finite::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
            _ => self.blocks().is_none_or(|blocks| blocks.first_not_finite(bytes).is_none()),
        }
    }
}

fn all_finite<const SIZE: usize>(bytes: &[u8], finite: impl Fn([u8; SIZE]) -> bool) -> bool {
    // No early exit: without one the loop becomes vector code, and nearly every tensor is read to its end anyway.
    bytes.as_chunks::<SIZE>().0.iter().fold(true, |all, element| all & finite(*element))
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StoredType {
    type Err = Error;

    /// The name of a type of elements, in any case.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ELEMENTS.iter().copied().find(|stored| stored.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::input(format!("no dtype '{name}'; there are: f32, f16, bf16")))
    }
}
