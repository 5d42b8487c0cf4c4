//! Formats of weights: what kernels read, whatever a file stores.
//!
//! Elements are kept as they are, `[inputs / 4, columns, 4]`: what a thread reads of a column lies together, and beside that of the
//! next column. Blocks are taken apart into planes (`format::blocks`), one after the other.
//! Kernels do not know how a weight lies in memory: they ask their piece, `shaders/lib/weight_NAME.wgsl`, for the weights at (input,
//! block of four columns), where it finds whatever it needs, scales too.

use std::fmt;
use std::str::FromStr;

use crate::format::blocks::{Blocks, Plane};
use crate::format::stored::StoredType;
use crate::gpu::Variant;
use crate::{Error, Result};

/// How kernels read the weights of a matrix: all that a file can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightFormat(StoredType);

/// Inputs and columns of a packed matrix: whole blocks of the format, and fours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub inputs: usize,
    pub columns: usize,
}

/// Bytes that a shader reads at a time, and that every plane takes a multiple of.
const READ: usize = 16;

/// Inputs of a column whose elements lie side by side.
pub(crate) const TOGETHER: usize = 4;

/// The only plane of elements.
const DENSE: [[Plane; 1]; 2] =
    [[Plane { inputs: TOGETHER, bytes: 4 * TOGETHER }], [Plane { inputs: TOGETHER, bytes: 2 * TOGETHER }]];

impl WeightFormat {
    /// IEEE single precision.
    pub const F32: Self = Self(StoredType::F32);
    /// IEEE half precision.
    pub const F16: Self = Self(StoredType::F16);
    /// The upper half of a single.
    pub const BF16: Self = Self(StoredType::BF16);
    /// 32 inputs of a column share a scale, f16, and have a whole number of it each, int8.
    pub const Q8_0: Self = Self(StoredType::Q8_0);

    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        StoredType::ALL.iter().copied().map(Self)
    }

    /// The formats that matrices can be packed in as they are loaded.
    pub fn packed_at_load() -> impl Iterator<Item = Self> + Clone {
        Self::all().filter(|format| format.stored().is_none())
    }

    /// The format of what is stored so.
    pub(crate) fn of(stored: StoredType) -> Self {
        Self(stored)
    }

    /// The type of elements that stay what they are in a file.
    pub(crate) fn stored(self) -> Option<StoredType> {
        self.blocks().is_none().then_some(self.0)
    }

    /// The format of blocks, unless elements stand alone.
    pub(crate) fn blocks(self) -> Option<&'static Blocks> {
        self.0.blocks()
    }

    /// Bytes of an element, or of a block in a file.
    pub(crate) fn element_bytes(self) -> usize {
        self.0.unit().1
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The name as it is asked for: `q8_0`.
    pub fn flag(self) -> String {
        self.name().to_lowercase()
    }

    /// Inputs of a column that are packed together: a matrix has a whole number of such blocks.
    pub(crate) fn block_inputs(self) -> usize {
        self.0.unit().0
    }

    /// The inputs that a matrix of `inputs` is padded to, of weights that are zero.
    pub(crate) fn padded(self, inputs: usize) -> usize {
        inputs.next_multiple_of(self.block_inputs().max(TOGETHER))
    }

    fn plane_list(self) -> &'static [Plane] {
        match self.blocks() {
            Some(blocks) => blocks.planes,
            None => &DENSE[usize::from(self.element_bytes() == 2)],
        }
    }

    /// Bytes of a matrix.
    pub(crate) fn bytes(self, shape: Shape) -> u64 {
        self.plane_list().iter().map(|plane| plane_bytes(plane, shape)).sum()
    }

    /// Columns of `inputs` inputs that fit into `limit` bytes.
    pub(crate) fn columns_within(self, inputs: usize, limit: u64) -> usize {
        let planes = self.plane_list();
        let column: u64 = planes.iter().map(|plane| (inputs / plane.inputs * plane.bytes) as u64).sum();
        let padding = (READ * planes.len()) as u64;
        usize::try_from(limit.saturating_sub(padding) / column.max(1)).unwrap_or(usize::MAX)
    }

    /// The parts of a matrix of this shape, and where each begins.
    pub(crate) fn planes(self, shape: Shape) -> impl Iterator<Item = (Plane, u64)> {
        let mut begin = 0;
        self.plane_list().iter().map(move |&plane| {
            let at = begin;
            begin += plane_bytes(&plane, shape);
            (plane, at)
        })
    }

    /// Puts blocks of a row of a file where column `column` of a matrix of `shape` has them; a whole column.
    pub(crate) fn place(self, blocks: &Blocks, row: &[u8], column: usize, shape: Shape, packed: &mut [u8]) {
        let mut pieces = [0; Blocks::MAX_PIECES];
        for (index, block) in row.chunks_exact(blocks.bytes).enumerate() {
            (blocks.split)(block, &mut pieces);
            let mut pieces = &pieces[..];
            for (Plane { inputs, bytes }, begin) in self.planes(shape) {
                let of_block = blocks.weights / inputs;
                let (own, rest) = pieces.split_at(of_block * bytes);
                for (n, piece) in own.chunks_exact(bytes).enumerate() {
                    let at = begin as usize + ((index * of_block + n) * shape.columns + column) * bytes;
                    packed[at..at + bytes].copy_from_slice(piece);
                }
                pieces = rest;
            }
        }
    }

    /// Packs a `[columns, inputs]` matrix, padded with zeros; also its shape then.
    pub(crate) fn packed(self, w: &[f32], inputs: usize) -> (Vec<u8>, Shape) {
        let mut padded = vec![0.0; self.padded(inputs)];
        let stored = w.chunks_exact(inputs).flat_map(|w| {
            padded[..inputs].copy_from_slice(w);
            self.0.encode(&padded)
        });
        self.packed_stored(&stored.collect::<Vec<_>>(), self.padded(inputs))
    }

    /// The same of what a file stores, rows of a whole number of blocks.
    pub(crate) fn packed_stored(self, stored: &[u8], inputs: usize) -> (Vec<u8>, Shape) {
        let rows = stored.chunks_exact(self.0.bytes_of(inputs));
        let shape = Shape { inputs, columns: rows.len().next_multiple_of(4) };
        let mut packed = vec![0; self.bytes(shape) as usize];
        for (column, row) in rows.enumerate() {
            if let Some(blocks) = self.blocks() {
                self.place(blocks, row, column, shape, &mut packed);
                continue;
            }
            let size = TOGETHER * self.element_bytes();
            for (index, piece) in row.chunks_exact(size).enumerate() {
                packed[(index * shape.columns + column) * size..][..size].copy_from_slice(piece);
            }
        }
        (packed, shape)
    }

    /// The weights of a `[columns, inputs]` matrix once they are packed.
    pub(crate) fn rounded(self, w: &[f32], inputs: usize) -> Vec<f32> {
        let mut padded = vec![0.0; self.padded(inputs)];
        let mut row = |w: &[f32]| {
            padded[..inputs].copy_from_slice(w);
            self.0.decode(&self.0.encode(&padded))[..inputs].to_vec()
        };
        w.chunks_exact(inputs).flat_map(&mut row).collect()
    }

    /// Binds the piece that reads weights.
    pub(crate) fn bound(self, variant: Variant) -> Variant {
        let piece = match self.0 {
            StoredType::F16 => "weight_f16",
            StoredType::BF16 => "weight_bf16",
            _ => self.blocks().map_or("weight_f32", |blocks| blocks.piece),
        };
        variant.piece("weight", piece)
    }

    /// Blocks of four inputs of a run, what a thread loads at a time: 1 or 4, as a stretch of inputs is a multiple of four.
    pub(crate) fn run(self) -> u32 {
        if self.blocks().is_some() { 4 } else { 1 }
    }
}

fn plane_bytes(plane: &Plane, Shape { inputs, columns }: Shape) -> u64 {
    (inputs / plane.inputs * columns * plane.bytes).next_multiple_of(READ) as u64
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
            Error::input(format!("no format '{name}' to pack weights in; there are: {}", names.join(", ")))
        })
    }
}
