// What a product keeps of logits for their softmax, while it has them: the highest of a few neighbouring columns, and the
// sum of exp(logit - highest). Then nobody has to read the logits for it.

struct Partials {
    // Columns that are tokens; those after them are padding.
    vocab: u32,
    // Of a row, and where this shard's begin.
    stride: u32,
    first: u32,
}

@group(0) @binding(5) var<uniform> kept: Partials;
// [rows, stride]
@group(0) @binding(6) var<storage, read_write> partials: array<vec2<f32>>;

fn partial_of(column: u32, value: vec4<f32>) -> vec2<f32> {
    let token = (params.y_first4 + column) * 4u + vec4<u32>(0u, 1u, 2u, 3u);
    let x = select(vec4<f32>(-3.0e38), value, token < vec4<u32>(kept.vocab));
    let highest = max(max(x.x, x.y), max(x.z, x.w));
    let e = exp(x - highest);
    return vec2<f32>(highest, (e.x + e.y) + (e.z + e.w));
}
