//! What a cache keeps of keys and values, and the pieces of shaders that know it.

use std::fmt;
use std::str::FromStr;

use crate::gpu::Variant;
use crate::{Error, Result};

/// What keys and values are kept in. It is a property of an engine: whatever is exact is so within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheType {
    /// IEEE single precision: as they were computed.
    #[default]
    F32,
    /// IEEE half precision: half the memory. Values beyond 65,504 are cut to it.
    F16,
}

impl CacheType {
    /// Every type, in the order of their names in messages.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// Bytes of an element.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for CacheType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|cache| cache.to_string() == name);
        found.ok_or_else(|| Error::input(format!("no cache type '{name}'; there are: f32, f16")))
    }
}

/// Binds what reads and writes a cache's elements, and whether its slots are a ring.
pub(super) fn with_cache(variant: Variant, cache: CacheType, ring: bool) -> Variant {
    let elements = match cache {
        CacheType::F32 => "cache_f32",
        CacheType::F16 => "cache_f16",
    };
    variant.piece("elements", elements).piece("slots", if ring { "slots_ring" } else { "slots_line" })
}

/// Every kind of cache that a kernel can be for: the type, and whether it is a ring.
pub(crate) fn kinds() -> impl Iterator<Item = (CacheType, bool)> {
    CacheType::ALL.into_iter().flat_map(|cache| [(cache, false), (cache, true)])
}
