// What a cache keeps of four neighbouring elements of a key or a value: singles, as they were computed.

alias Cached = vec4<f32>;

fn to_cache(x: vec4<f32>) -> Cached {
    return x;
}

fn from_cache(x: Cached) -> vec4<f32> {
    return x;
}
