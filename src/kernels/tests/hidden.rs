//! copy_hidden, compact_hidden, lora, stage_window, shift_tokens against their references.

use super::adapters::{on_every_adapter, pass};
use crate::kernels::{Place, Store};
use crate::self_test::hidden::{check_compact_hidden, check_copy_hidden, check_lora, check_stage_window};

#[test]
fn states_are_carried_to_the_history_and_back() {
    on_every_adapter(|gpu| {
        for width in [4, 36, 256, 260] {
            for (places, rows) in [
                ((Place::Rows, Place::Committed), 1),
                ((Place::Rows, Place::Committed), 64),
                ((Place::Committed, Place::Rows), 3),
                ((Place::Committed, Place::Rows), 9),
                ((Place::Wanted, Place::Rows), 2),
                ((Place::Rows, Place::Rows), 32),
                ((Place::Same, Place::Rows), 9),
            ] {
                pass(gpu, check_copy_hidden(gpu, width, places, rows, (1.0, Store::Set)));
                pass(gpu, check_copy_hidden(gpu, width, places, rows, (0.3, Store::Add)));
            }
        }
    });
}

#[test]
fn the_committed_path_is_kept() {
    on_every_adapter(|gpu| {
        for path in [&[0][..], &[0, 1, 2], &[0, 2, 3, 7], &[0, 31], &[]] {
            for (width, first) in [(4, 0), (260, 11), (64, 38)] {
                pass(gpu, check_compact_hidden(gpu, width, first, path));
            }
        }
    });
}

#[test]
fn windows_end_where_the_model_has_been() {
    on_every_adapter(|gpu| {
        for (length, rows, ahead) in [(9, 3, 0), (9, 1, 1), (9, 5, 2), (2, 5, 3), (1, 4, 1), (70, 32, 8), (70, 64, 40)]
        {
            pass(gpu, check_stage_window(gpu, length, rows, ahead));
        }
    });
}

#[test]
fn adapters_act_on_their_rows_only() {
    on_every_adapter(|gpu| {
        for (columns, rank, rows) in [(4, 1, 2), (36, 3, 5), (260, 8, 9), (768, 64, 32)] {
            pass(gpu, check_lora(gpu, columns, rank, rows));
        }
    });
}
