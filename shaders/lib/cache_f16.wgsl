// What a cache keeps of four neighbouring elements of a key or a value: halves, two in a word.

alias Cached = vec2<u32>;

// What a half cannot hold is cut: WGSL leaves open what packing makes of it.
fn to_cache(x: vec4<f32>) -> Cached {
    let held = clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(held.xy), pack2x16float(held.zw));
}

fn from_cache(x: Cached) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y));
}
