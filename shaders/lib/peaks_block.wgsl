// Every block of four columns on its own: no barriers, for which software adapters pay dearly.
//! use peak_of

fn keep_peaks(row: u32, column: u32, value: vec4<f32>, local: vec2<u32>) {
    if (column < params.columns4) {
        peaks[row * kept.stride + kept.first + column] = peak_of(column, value);
    }
}
