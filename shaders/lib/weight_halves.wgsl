// What the formats of two bytes share. A column's block of four inputs lies together, those of neighbouring columns side by side.
//! use weight_at

// [inputs4, columns / 2, 2 * 2 words]
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

// Blocks of four inputs of a run.
const BLOCKS_OF_RUN: u32 = 1u;

// Four inputs of columns 0 and 1, and of columns 2 and 3.
struct WeightRun {
    left: vec4<u32>,
    right: vec4<u32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let at = 2u * (input4 * shape.y + column4);
    return WeightRun(weight[at], weight[at + 1u]);
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let word = input / 2u;
    return unpack(vec4<u32>(run.left[word], run.left[2u + word], run.right[word], run.right[2u + word]), input % 2u);
}
