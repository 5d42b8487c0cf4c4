//! The kernels of a delta net against their references.

use super::adapters::{on_every_set, pass};
use crate::kernels::DeltaShape;
use crate::self_test::attending::{chain, tree};
use crate::self_test::recurrent::Recurring;

const SHAPES: [DeltaShape; 4] = [
    DeltaShape { key_heads: 1, value_heads: 1, key_dim: 4, value_dim: 4, taps: 1, tiled: false },
    DeltaShape { key_heads: 2, value_heads: 6, key_dim: 12, value_dim: 24, taps: 4, tiled: true },
    DeltaShape { key_heads: 3, value_heads: 3, key_dim: 68, value_dim: 68, taps: 3, tiled: false },
    DeltaShape { key_heads: 1, value_heads: 2, key_dim: 128, value_dim: 128, taps: 4, tiled: false },
];

#[test]
fn rows_of_a_delta_net_are_those_of_the_reference() {
    on_every_set(|gpu, set| {
        for shape in SHAPES {
            let parents = [None, Some(0), Some(0), Some(1), Some(1), Some(2), Some(5)];
            let batches = [
                (Recurring::new(gpu, set, shape, &[], 1), None),
                (Recurring::new(gpu, set, shape, &[], 37), None),
                (Recurring::new(gpu, set, shape, &chain(9, &[0]), 0), Some(vec![0])),
                (Recurring::new(gpu, set, shape, &chain(9, &[0, 1, 2, 3, 4]), 0), Some(vec![0, 1, 2])),
                (Recurring::new(gpu, set, shape, &tree(9, &[0; 7], &parents), 0), Some(vec![0, 2, 5, 6])),
                (Recurring::new(gpu, set, shape, &tree(9, &[0; 7], &parents), 0), Some(vec![])),
            ];
            for (batch, path) in batches {
                pass(gpu, batch.check_inputs());
                pass(gpu, batch.check_rule(path.as_deref()));
            }
        }
    });
}
