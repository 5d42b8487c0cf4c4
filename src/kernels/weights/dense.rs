//! Formats that keep a file's elements as they are: `[inputs, columns]`, neighbouring columns side by side.

use super::{Layout, Plane, Shape};
use crate::format::stored::StoredType;

/// Elements of one type.
pub(super) struct Dense {
    stored: StoredType,
    piece: &'static str,
    planes: [Plane; 1],
    largest: f32,
}

/// Four bytes a weight.
pub(super) static F32: Dense = Dense::new(StoredType::F32, "weight_f32", 4, f32::MAX);

/// Two bytes a weight: exact to 11 bits between 2^-14 and 65,504.
pub(super) static F16: Dense = Dense::new(StoredType::F16, "weight_f16", 2, 65_504.0);

/// Two bytes a weight: exact to 8 bits wherever f32 has numbers.
pub(super) static BF16: Dense = Dense::new(StoredType::BF16, "weight_bf16", 2, f32::from_bits(0x7f7f_0000));

impl Dense {
    const fn new(stored: StoredType, piece: &'static str, bytes: usize, largest: f32) -> Self {
        Self { stored, piece, planes: [Plane { inputs: 1, bytes }], largest }
    }
}

impl Layout for Dense {
    fn name(&self) -> &'static str {
        self.stored.name()
    }

    fn piece(&self) -> &'static str {
        self.piece
    }

    fn stored(&self) -> Option<StoredType> {
        Some(self.stored)
    }

    fn planes(&self) -> &[Plane] {
        &self.planes
    }

    fn largest(&self) -> f32 {
        self.largest
    }

    fn pack(&self, values: &[f32], column: usize, columns: usize, packed: &mut [u8]) {
        let size = self.stored.size_bytes();
        for (input, element) in self.stored.encode(values).chunks_exact(size).enumerate() {
            packed[(input * columns + column) * size..][..size].copy_from_slice(element);
        }
    }

    fn weight(&self, packed: &[u8], shape: Shape, input: usize, column: usize) -> f64 {
        let size = self.stored.size_bytes();
        let element = &packed[(input * shape.columns + column) * size..][..size];
        self.stored.decode(element)[0].into()
    }
}
