// What both products share: their sizes and buffers.

struct Params {
    // Output columns and inputs, in blocks of four; both padded with zero weights.
    columns4: u32,
    inputs4: u32,
    x_stride4: u32,
    y_stride4: u32,
    // Where this shard's columns begin in y.
    y_first4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

// The inputs and columns of the weights, in blocks of four.
fn weight_shape() -> vec2<u32> {
    return vec2<u32>(params.inputs4, params.columns4 * BLOCKS);
}

// Blocks of neighbouring inputs that are summed by themselves, from the first; then these sums are added in order. A multiple of
// four, so that matmul_tiled has no tile that is full in part.
fn split_inputs() -> u32 {
    return (params.inputs4 + 4u * SPLITS - 1u) / (4u * SPLITS) * 4u;
}
