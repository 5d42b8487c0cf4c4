// Where the weights of a format lie that keeps a file's elements: Packed is four neighbouring columns of an input.

// [inputs, columns4]: neighbouring threads read neighbouring blocks.
@group(0) @binding(2) var<storage, read> weight: array<Packed>;

// The weights of four columns at an input. `shape` is the matrix's, inputs and columns in blocks of four.
fn weight4(shape: vec2<u32>, input: u32, column4: u32) -> vec4<f32> {
    return unpack(weight[input * shape.y + column4]);
}

// What a thread holds while it goes through RUN blocks of four inputs: where they begin.
alias WeightRun = u32;

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    return input4 * 4u * shape.y + column4;
}

// The weights of four columns at an input of a block of the run.
fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return unpack(weight[run + (block * 4u + input) * shape.y]);
}
