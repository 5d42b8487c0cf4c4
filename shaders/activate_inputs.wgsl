//! The gradient of what an activation reads, set. BLOCKS is 2 where gate and up alternate.
//! dispatch: [ceil(inner4 / 64), rows, 1]
//! use activation
//! use slope

struct Params {
    inner4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [rows, inner4 * BLOCKS]
@group(0) @binding(1) var<storage, read> pre: array<vec4<f32>>;
// [rows, inner4]
@group(0) @binding(2) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dpre: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.inner4) {
        return;
    }
    let place = id.y * params.inner4 + id.x;
    let at = place * BLOCKS;
    let d = dout[place];
    if (BLOCKS == 2u) {
        let gate = pre[at];
        dpre[at] = d * pre[at + 1u] * slope(gate);
        dpre[at + 1u] = d * activate(gate);
    } else {
        dpre[at] = d * slope(pre[at]);
    }
}
