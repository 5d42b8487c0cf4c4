// The exponent is clamped: exp must not overflow, shaders may not rely on infinity.
fn activate(v: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(min(-v, vec4<f32>(80.0))));
}
