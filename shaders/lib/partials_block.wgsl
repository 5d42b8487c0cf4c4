// Every block of four columns on its own: no barriers, for which software adapters pay dearly.
//! use partial_of

fn store_partials(row: u32, column: u32, value: vec4<f32>, local: vec2<u32>) {
    if (column < params.columns4) {
        partials[row * kept.stride + kept.first + column] = partial_of(column, value);
    }
}
