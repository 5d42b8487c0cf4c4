//! Element types of files: the one place where bytes become numbers and numbers become bytes.

use std::fmt;
use std::str::FromStr;

use ::safetensors::Dtype as FileType;
use half::{bf16, f16};

use crate::error::{Error, Result};

/// The element types of files that the engine reads. What a kernel reads is a [`WeightFormat`](crate::kernels::WeightFormat).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
}

impl StoredType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name in safetensors files: `F32`, `F16` or `BF16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The type that safetensors files call so, if the engine reads it.
    pub(crate) fn from_file(stored: FileType) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.in_file() == stored)
    }

    /// The type as safetensors files call it.
    pub(crate) fn in_file(self) -> FileType {
        match self {
            Self::F32 => FileType::F32,
            Self::F16 => FileType::F16,
            Self::BF16 => FileType::BF16,
        }
    }

    /// Numbers of elements, little endian.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }

    /// Elements of numbers, little endian, rounded to the nearest.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        }
    }

    /// Whether elements hold neither a NaN nor an infinity.
    pub(crate) fn all_finite(self, bytes: &[u8]) -> bool {
        match self {
            Self::F32 => all_finite::<4>(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000),
            Self::F16 => all_finite::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
            Self::BF16 => all_finite::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
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

    /// A name as in safetensors files, in any case.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|stored| stored.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::input(format!("no dtype '{name}'; there are: f32, f16, bf16")))
    }
}
