// The derivative of x * sigmoid(x), clamped as the function is.
fn slope(v: vec4<f32>) -> vec4<f32> {
    let s = 1.0 / (1.0 + exp(min(-v, vec4<f32>(80.0))));
    return s * fma(max(v, vec4<f32>(-80.0)), 1.0 - s, vec4<f32>(1.0));
}
