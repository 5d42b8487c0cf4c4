// The derivative of x * sigmoid(x), clamped as the function is. 1 - s is exp(-x) s, without a difference near 1.
fn slope(v: vec4<f32>) -> vec4<f32> {
    let e = exp(min(-v, vec4<f32>(80.0)));
    let s = 1.0 / (1.0 + e);
    return s * fma(max(v, vec4<f32>(-80.0)), e * s, vec4<f32>(1.0));
}
