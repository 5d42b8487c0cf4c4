// Weights of one place of a matrix, for kernels that do not go through a matrix run by run. `shape` is the matrix's inputs and
// columns in blocks of four.

// Four inputs of four columns: a vector of columns for each input.
fn weight_tile(shape: vec2<u32>, input4: u32, column4: u32) -> mat4x4<f32> {
    let block = input4 % BLOCKS_OF_RUN;
    let run = weight_run(shape, input4 - block, column4);
    return mat4x4<f32>(
        run_weight(shape, run, block, 0u),
        run_weight(shape, run, block, 1u),
        run_weight(shape, run, block, 2u),
        run_weight(shape, run, block, 3u),
    );
}

// One input of four columns.
fn weight4(shape: vec2<u32>, input: u32, column4: u32) -> vec4<f32> {
    let block = input / 4u % BLOCKS_OF_RUN;
    return run_weight(shape, weight_run(shape, input / 4u - block, column4), block, input % 4u);
}
