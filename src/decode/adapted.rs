//! Rows whose adapters are on, under a gated LoRA: drafts are made of what they leave, and nothing else is.

use crate::gpu::Buffer;
use crate::kernels::{LoraIo, LoraParams, Op, Over, lora};
use crate::model::{HeadBuffers, HeadWeights, Planner, plain_form};

/// The ops of such rows, through the blocks below the heads, over keys and values of their own; none without a gated LoRA.
pub(super) fn ops(planner: Planner<'_>) -> Vec<Op> {
    let Planner { model, buffers: b } = planner;
    let Some((heads, buffers)) = model.heads.as_ref().zip(b.heads.as_ref()).filter(|(heads, _)| heads.gated) else {
        return Vec::new();
    };
    let layers = &model.weights.layers;
    let mut ops = planner.embed_with(&model.weights.embedding);
    for (index, (layer, kept)) in layers.iter().zip(&buffers.adapted_layers).enumerate() {
        planner.layer_with(layer, kept, &mut ops, |y, ops| adapt(planner, (heads, buffers), index, y, ops));
        planner.save_sources(heads, buffers, index + 1, &mut ops);
    }
    if buffers.adapted_layers.len() == layers.len() {
        planner.save_final_norm(heads, buffers, &mut ops);
    }
    ops
}

/// Adds the changes of a block to the queries, keys and values of the rows whose adapters are on.
fn adapt(
    planner: Planner<'_>,
    (heads, buffers): (&HeadWeights, &HeadBuffers),
    block: usize,
    y: &Buffer,
    ops: &mut Vec<Op>,
) {
    let adapter = heads.adapters.get(block).and_then(Option::as_ref);
    let (Some(adapter), Some(t)) = (adapter, &buffers.adapted) else { return };
    let Planner { model, buffers: b } = planner;
    let width = adapter.width();
    let (x, reduced) = ((&b.attention_in, model.sizes.hidden / 4), (t, width / 4));
    ops.extend(planner.product(plain_form(model, &adapter.a), &adapter.a, None, x, reduced, Over::Rows));
    let columns4 = model.attention_shape(&model.weights.layers[block]).qkv_stride() / 4;
    let params = LoraParams { columns4, rank: adapter.rank, t_stride: width };
    let (state, rows) = (&b.state, &b.rows);
    let io = LoraIo { state, rows, t, b: &adapter.b, starts: &adapter.starts, y };
    ops.push(lora(&model.gpu, params, io));
}
