//! The gradient of what head_norm reads: with n = x * inverse and g = dy * scale it is inverse * (g - n * mean(g * n)); that
//! of values passes. Leaves the inverse of each head for head_norm_weights.
//! dispatch: [ceil((heads + kv_heads + others) / 64), rows, 1]
//! use head_norm

// [rows, heads + kv_heads + others, head_dim4], zero in the padding; all three.
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
// [2, head_dim4]: of queries, of keys.
@group(0) @binding(3) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<f32>>;
// [rows, heads + kv_heads + others]
@group(0) @binding(5) var<storage, read_write> inverses: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let heads = params.heads + params.kv_heads + params.others;
    if (id.x >= heads) {
        return;
    }
    let first = (id.y * heads + id.x) * params.head_dim4;
    if (id.x >= params.heads + params.kv_heads) {
        for (var d = 0u; d < params.head_dim4; d++) {
            dx[first + d] = dy[first + d];
        }
        return;
    }
    let scales = select(0u, params.head_dim4, id.x >= params.heads);
    var squares = vec4<f32>();
    var products = vec4<f32>();
    for (var d = 0u; d < params.head_dim4; d++) {
        squares = fma(x[first + d], x[first + d], squares);
        products = fma(dy[first + d] * scale[scales + d], x[first + d], products);
    }
    let width = f32(params.width);
    let inverse = inverseSqrt(total(squares) / width + params.eps);
    let slope = inverse * inverse * (total(products) / width);
    for (var d = 0u; d < params.head_dim4; d++) {
        dx[first + d] = inverse * fma(-x[first + d], vec4<f32>(slope), dy[first + d] * scale[scales + d]);
    }
    inverses[id.y * heads + id.x] = inverse;
}
