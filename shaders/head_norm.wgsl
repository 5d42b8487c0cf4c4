//! y = x of rows of queries, keys and values, in which each query head and each key head is RMS-normalised and scaled.
//! A thread owns a head.
//! dispatch: [ceil((heads + kv_heads + others) / 64), rows, 1]
//! use head_norm

// [rows, heads + kv_heads + others, head_dim4], zero in the padding.
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
// [2, head_dim4]: of queries, of keys.
@group(0) @binding(2) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let heads = params.heads + params.kv_heads + params.others;
    if (id.x >= heads) {
        return;
    }
    let first = (id.y * heads + id.x) * params.head_dim4;
    if (id.x >= params.heads + params.kv_heads) {
        for (var d = 0u; d < params.head_dim4; d++) {
            y[first + d] = x[first + d];
        }
        return;
    }
    var squares = vec4<f32>();
    for (var d = 0u; d < params.head_dim4; d++) {
        squares = fma(x[first + d], x[first + d], squares);
    }
    let mean = total(squares) / f32(params.width);
    let inverse = inverseSqrt(mean + params.eps);
    let scales = select(0u, params.head_dim4, id.x >= params.heads);
    for (var d = 0u; d < params.head_dim4; d++) {
        y[first + d] = x[first + d] * inverse * scale[scales + d];
    }
}
