//! out = finish(pre): what products do at their end, where the gradient needs to know what came before.
//! dispatch: [ceil(inner4 / 64), rows, 1]
//! use activation
//! use finish

struct Params {
    inner4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [rows, inner4 * BLOCKS]
@group(0) @binding(1) var<storage, read> pre: array<vec4<f32>>;
// [rows, inner4]
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.inner4) {
        return;
    }
    let to = id.y * params.inner4 + id.x;
    out[to] = finish(pre[to * BLOCKS], pre[to * BLOCKS + BLOCKS - 1u]);
}
