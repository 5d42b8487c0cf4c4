// A gate: y already holds what it acts on.
fn store(index: u32, value: vec4<f32>) {
    y[index] *= value;
}
