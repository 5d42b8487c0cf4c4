// A bias per output column, in blocks of four.

@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;

fn bias4(column4: u32) -> vec4<f32> {
    return bias[column4];
}
