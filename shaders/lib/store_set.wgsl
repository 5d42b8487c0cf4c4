// A result that replaces what was there.
fn store(index: u32, value: vec4<f32>) {
    y[index] = value;
}
