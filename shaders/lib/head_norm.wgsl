// Sizes of rows of queries, keys and values whose query and key heads are normalised.

struct Params {
    heads: u32,
    kv_heads: u32,
    // Heads behind those of keys, which stay as they are: values.
    others: u32,
    // Elements of a head, and the same padded to blocks of four.
    width: u32,
    head_dim4: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

fn total(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
