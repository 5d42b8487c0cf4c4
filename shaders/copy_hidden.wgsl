//! y[row] = weight * x[row], or added to it: hidden states on their way between the residual stream and their history.
//! dispatch: [ceil(width4 / 64), rows, 1]
//! use batch

struct Params {
    // Values of a row in blocks of four.
    width4: u32,
    // Rows of a history.
    slots: u32,
    // Where the rows of x and of y begin: 0 at the first, 1 at the committed length, 2 at the first of the batch's rows
    // whose logits are wanted, counted from the committed length. 3, of x only: every row is that at the committed length.
    x_place: u32,
    y_place: u32,
    // 1: add to y.
    accumulate: u32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

fn start(place: u32) -> u32 {
    if (place == 0u) {
        return 0u;
    }
    return state.committed + select(0u, state.logit_row, place == 2u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let read = start(params.x_place) + select(id.y, 0u, params.x_place == 3u);
    let write = start(params.y_place) + id.y;
    let inside = (params.x_place == 0u || read < params.slots) && (params.y_place == 0u || write < params.slots);
    if (id.x >= params.width4 || state.done != 0u || !inside) {
        return;
    }
    let value = params.weight * x[read * params.width4 + id.x];
    let at = write * params.width4 + id.x;
    if (params.accumulate == 1u) {
        y[at] += value;
    } else {
        y[at] = value;
    }
}
