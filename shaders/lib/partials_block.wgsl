// Every block of four columns on its own: no barriers, for which software adapters pay dearly.
//! use partial_of

fn keep_partial(slot: u32, row: u32, column: u32, value: vec4<f32>) {
    partials[row * kept.stride + kept.first + column] = partial_of(column, value);
}
