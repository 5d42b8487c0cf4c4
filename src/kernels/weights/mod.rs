//! Formats of weights: what kernels read, whatever a file stores.
//!
//! A format is one file here ([`Layout`]: blocks, bytes, packing and the specification), one piece `shaders/lib/weight_NAME.wgsl`
//! and one line of the table below. Nobody else knows how a weight lies in memory: kernels ask their piece for the weights at
//! (input, block of four columns), where it finds whatever it needs, scales too.

mod dense;
mod q8_0;

use std::fmt;
use std::str::FromStr;

use crate::format::stored::StoredType;
use crate::gpu::Variant;
use crate::{Error, Result};

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident => $layout:path,)*) => {
        /// How kernels read the weights of a matrix.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum WeightFormat {
            $($(#[$doc])* $name,)*
        }

        impl WeightFormat {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn layout(self) -> &'static dyn Layout {
                match self {
                    $(Self::$name => &$layout,)*
                }
            }
        }
    };
}

formats! {
    /// IEEE single precision.
    F32 => dense::F32,
    /// IEEE half precision.
    F16 => dense::F16,
    /// The upper half of a single.
    BF16 => dense::BF16,
    /// 32 inputs of a column share a scale, f16, and have a whole number of it each, int8.
    Q8_0 => q8_0::Q8_0,
}

/// A part of a packed matrix, `[inputs / self.inputs, columns]` pieces of `bytes` bytes. A matrix is its planes, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plane {
    /// Inputs of a column that share a piece.
    pub inputs: usize,
    /// A multiple of two, since columns come in fours and writes to the GPU in whole words.
    pub bytes: usize,
}

/// Inputs and columns of a packed matrix: whole blocks of the format, and fours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub inputs: usize,
    pub columns: usize,
}

/// The description of a format by a file of this folder.
trait Layout: Sync {
    /// The name for people.
    fn name(&self) -> &'static str;

    /// The piece of `shaders/lib` that reads it.
    fn piece(&self) -> &'static str;

    /// The type of a file's elements if they stay what they are.
    fn stored(&self) -> Option<StoredType> {
        None
    }

    /// Inputs of a column that are packed together: a matrix has a whole number of such blocks.
    fn block_inputs(&self) -> usize {
        1
    }

    /// Blocks of four inputs that a thread of `matmul.wgsl` reads at a time, 1, 2 or 4: a stretch of inputs is a multiple of four.
    fn run(&self) -> u32 {
        1
    }

    /// The parts of a matrix.
    fn planes(&self) -> &[Plane];

    /// The largest magnitude of a weight.
    fn largest(&self) -> f32;

    /// Puts `values`, a whole number of blocks of inputs, where column `column` of a matrix of `columns` has them.
    fn pack(&self, values: &[f32], column: usize, columns: usize, packed: &mut [u8]);

    /// The weight at (input, column) of a packed matrix: the specification of the piece.
    fn weight(&self, packed: &[u8], shape: Shape, input: usize, column: usize) -> f64;
}

impl WeightFormat {
    /// The format of elements that stay what they are in a file.
    pub(crate) fn of(stored: StoredType) -> Self {
        match stored {
            StoredType::F32 => Self::F32,
            StoredType::F16 => Self::F16,
            StoredType::BF16 => Self::BF16,
        }
    }

    /// The type of a file's elements if they stay what they are in this format.
    pub(crate) fn stored(self) -> Option<StoredType> {
        self.layout().stored()
    }

    /// The formats that the matrices of a file can be packed in as they are loaded.
    pub fn packed_at_load() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|format| format.stored().is_none())
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        self.layout().name()
    }

    /// The name as it is asked for: `q8_0`.
    pub fn flag(self) -> String {
        self.name().to_lowercase()
    }

    /// Inputs of a column that are packed together: a matrix has a whole number of such blocks.
    pub(crate) fn block_inputs(self) -> usize {
        self.layout().block_inputs()
    }

    /// The inputs that a matrix of `inputs` is padded to, of weights that are zero.
    pub(crate) fn padded(self, inputs: usize) -> usize {
        inputs.next_multiple_of(self.block_inputs().max(4))
    }

    /// The largest magnitude of a weight.
    pub(crate) fn largest(self) -> f32 {
        self.layout().largest()
    }

    /// Bytes of a matrix, up to a multiple of what a shader reads at a time.
    pub(crate) fn bytes(self, Shape { inputs, columns }: Shape) -> u64 {
        const READ: u64 = 16;
        let plane = |plane: &Plane| (inputs / plane.inputs) as u64 * columns as u64 * plane.bytes as u64;
        self.layout().planes().iter().map(plane).sum::<u64>().next_multiple_of(READ)
    }

    /// Columns of `inputs` inputs that fit into `limit` bytes.
    pub(crate) fn columns_within(self, inputs: usize, limit: u64) -> usize {
        const READ: u64 = 16;
        let column: u64 = self.layout().planes().iter().map(|plane| (inputs / plane.inputs * plane.bytes) as u64).sum();
        usize::try_from(limit / READ * READ / column.max(1)).unwrap_or(usize::MAX)
    }

    /// The parts of a matrix of this shape, and where each begins.
    pub(crate) fn planes(self, Shape { inputs, columns }: Shape) -> impl Iterator<Item = (Plane, u64)> {
        let mut begin = 0;
        self.layout().planes().iter().map(move |&plane| {
            let at = begin;
            begin += (inputs / plane.inputs * columns * plane.bytes) as u64;
            (plane, at)
        })
    }

    /// Puts `values`, a whole number of blocks of inputs, where column `column` of a matrix of `columns` has them.
    pub(crate) fn pack(self, values: &[f32], column: usize, columns: usize, packed: &mut [u8]) {
        self.layout().pack(values, column, columns, packed);
    }

    /// Packs a `[columns, inputs]` matrix, padded with zeros; also its shape then.
    pub(crate) fn packed(self, w: &[f32], inputs: usize) -> (Vec<u8>, Shape) {
        let columns = w.len() / inputs;
        let shape = Shape { inputs: self.padded(inputs), columns: columns.next_multiple_of(4) };
        let mut packed = vec![0; self.bytes(shape) as usize];
        let mut padded = vec![0.0; shape.inputs];
        for (column, w) in w.chunks_exact(inputs).enumerate() {
            padded[..inputs].copy_from_slice(w);
            self.pack(&padded, column, shape.columns, &mut packed);
        }
        (packed, shape)
    }

    /// The weights of a `[columns, inputs]` matrix once they are packed.
    pub(crate) fn rounded(self, w: &[f32], inputs: usize) -> Vec<f32> {
        let (packed, shape) = self.packed(w, inputs);
        let weight = |at| self.layout().weight(&packed, shape, at % inputs, at / inputs);
        // Exact: no format holds what f32 does not.
        (0..w.len()).map(|at| weight(at) as f32).collect()
    }

    /// Binds the piece that reads weights.
    pub(crate) fn bound(self, variant: Variant) -> Variant {
        variant.piece("weight", self.layout().piece())
    }

    /// Blocks of four inputs that a thread of a narrow product reads at a time.
    pub(crate) fn run(self) -> u32 {
        self.layout().run()
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    /// A format that matrices are packed in as they are loaded, in any case.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::packed_at_load().find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names: Vec<_> = Self::packed_at_load().map(Self::flag).collect();
            Error::input(format!("no format '{name}' to pack weights in; there is: {}", names.join(", ")))
        })
    }
}
