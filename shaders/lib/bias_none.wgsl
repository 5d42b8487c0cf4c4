// No bias.
fn bias4(column4: u32) -> vec4<f32> {
    return vec4<f32>();
}
