// Weights stored as f32. A column's block of four inputs lies together, those of neighbouring columns side by side.
//! use weight_at

// [inputs4, columns, 4]
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;

// Blocks of four inputs of a run.
const BLOCKS_OF_RUN: u32 = 1u;

// Four inputs of each column.
struct WeightRun {
    column0: vec4<f32>,
    column1: vec4<f32>,
    column2: vec4<f32>,
    column3: vec4<f32>,
}

// What a thread loads at a time: the weights of a run of inputs of four columns.
fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let at = 4u * (input4 * shape.y + column4);
    return WeightRun(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u]);
}

// The weights of four columns at an input of a block of the run.
fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return vec4<f32>(run.column0[input], run.column1[input], run.column2[input], run.column3[input]);
}
