//! What the file of each kernel declares of it, once: its variants, and how its uniform lies.

use std::collections::BTreeSet;

use super::{Activation, KERNELS, KernelSet};
use crate::gpu::Variant;
use crate::gpu::composer;

/// A kernel, or several with the same uniform.
pub(crate) struct Declared {
    variants: fn(KernelSet) -> Vec<Variant>,
    #[cfg_attr(not(test), allow(dead_code, reason = "the tests that hold it against the shaders are who reads it"))]
    pub(super) params: Option<Layout>,
}

impl Declared {
    /// Of the `variants` that the constructors can ask for with the kernels of a set, on any adapter.
    pub const fn new(variants: fn(KernelSet) -> Vec<Variant>) -> Self {
        Self { variants, params: None }
    }

    /// With the uniform that their shaders call `Params`.
    pub const fn params(self, params: Layout) -> Self {
        Self { params: Some(params), ..self }
    }

    /// All variants with the kernels of `sets`.
    pub fn variants(&self, sets: &[KernelSet]) -> BTreeSet<Variant> {
        sets.iter().flat_map(|&set| (self.variants)(set)).collect()
    }
}

/// Where the fields of a struct lie, padding left out, and its size.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "the tests that hold it against the shaders are who reads it"))]
pub(crate) struct Layout {
    pub fields: &'static [(&'static str, usize)],
    pub size: usize,
}

/// The [`Layout`] of a struct, whose fields are named in any order.
macro_rules! layout {
    ($ty:ident: $($field:ident),*) => {
        $crate::kernels::declared::Layout {
            fields: &[$((stringify!($field), std::mem::offset_of!($ty, $field))),*],
            size: size_of::<$ty>(),
        }
    };
}

pub(super) use layout;

/// Every activation.
pub(crate) const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

/// Subgroup sizes of known adapters.
pub(super) const SUBGROUPS: [u32; 6] = [4, 8, 16, 32, 64, 128];

/// Names of all shaders that the kernels of `set` can need on any adapter, and their WGSL.
///
/// Drivers and browsers compile WGSL each in their own way: this is for pages and programs that try them all.
pub fn shaders(set: KernelSet) -> Vec<(String, String)> {
    variants(&[set]).iter().map(|variant| (variant.label(), composer::link(variant).wgsl)).collect()
}

/// The variants of all sets.
#[cfg(test)]
pub(crate) fn all_variants() -> BTreeSet<Variant> {
    variants(&KernelSet::ALL)
}

fn variants(sets: &[KernelSet]) -> BTreeSet<Variant> {
    KERNELS.iter().copied().flatten().flat_map(|kernel| kernel.variants(sets)).collect()
}
