//! y[row] = normalised x[row], scaled: RMSNorm (norm_rms) or LayerNorm (norm_layer).
//! dispatch: [1, rows, 1]
//! use batch
//! use reduce
//! use norm

struct Params {
    width: u32,
    stride: u32,
    eps: f32,
    // 1: start at the first row whose logits are wanted; 0: at row 0.
    logit_rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let source = (group.y + params.logit_rows * state.logit_row) * params.stride;
    let stats = norm_stats(source, lane);
    for (var i = lane; i < params.width; i += LANES) {
        y[group.y * params.stride + i] = norm_apply(x[source + i], i, stats);
    }
}
