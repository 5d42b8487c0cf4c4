// Weights stored as Q8_0: 32 inputs of a column share a scale, f16, and have a whole number of it each, int8. Their product is
// exact in f32.

// Granules of 16 inputs of a column, [inputs / 16, columns]; behind them the scales, [inputs / 32, columns], two in a u32.
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

// Byte `input` of each of four words, with its sign.
fn whole_numbers(words: vec4<u32>, input: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(words << vec4<u32>(24u - 8u * input)) >> vec4<u32>(24u));
}

// The scales of four columns in a block of 32 inputs.
fn scales(shape: vec2<u32>, block: u32, column4: u32) -> vec4<f32> {
    // As many granules as there are blocks of four by four.
    let at = block * shape.y + column4;
    let two = weight[shape.x * shape.y + at / 2u];
    let words = select(two.xy, two.zw, at % 2u == 1u);
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// The weights of four columns at an input. `shape` is the matrix's, inputs and columns in blocks of four.
fn weight4(shape: vec2<u32>, input: u32, column4: u32) -> vec4<f32> {
    let at = (input / 16u * shape.y + column4) * 4u;
    let word = input / 4u % 4u;
    let words = vec4<u32>(weight[at][word], weight[at + 1u][word], weight[at + 2u][word], weight[at + 3u][word]);
    return whole_numbers(words, input % 4u) * scales(shape, input / 32u, column4);
}

// What a thread holds while it goes through RUN blocks of four inputs: a granule of each column, and their scales.
struct WeightRun {
    granule0: vec4<u32>,
    granule1: vec4<u32>,
    granule2: vec4<u32>,
    granule3: vec4<u32>,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let at = (input4 / 4u * shape.y + column4) * 4u;
    return WeightRun(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u], scales(shape, input4 / 8u, column4));
}

// The weights of four columns at an input of a block of the run.
fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let words = vec4<u32>(run.granule0[block], run.granule1[block], run.granule2[block], run.granule3[block]);
    return whole_numbers(words, input) * run.scales;
}
