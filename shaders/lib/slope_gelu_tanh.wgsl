// The derivative of GELU's tanh form. (1 + tanh z) / 2 is the logistic function of 2 z; with it, where tanh is near 1,
// no digits are lost. Beyond 10 it is 1 or 0 to the last bit.
fn slope(v: vec4<f32>) -> vec4<f32> {
    let near = clamp(v, vec4<f32>(-10.0), vec4<f32>(10.0));
    let inner = 0.7978845608028654 * fma(near * near * near, vec4<f32>(0.044715), near);
    let e = exp(-2.0 * min(abs(inner), vec4<f32>(20.0)));
    let one = 1.0 / (1.0 + e);
    let rise = 0.7978845608028654 * fma(near * near, vec4<f32>(0.134145), vec4<f32>(1.0));
    return fma(2.0 * near * e * one * one, rise, select(one, e * one, v < vec4<f32>()));
}
