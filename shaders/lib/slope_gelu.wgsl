// The derivative of the exact GELU: the normal distribution function, and x times its density. Beyond 13 the density
// is nothing. erfc_positive is activation_gelu's.
fn slope(v: vec4<f32>) -> vec4<f32> {
    let near = clamp(v, vec4<f32>(-13.0), vec4<f32>(13.0));
    let tail = 0.5 * erfc_positive(abs(near) * 0.7071067811865476);
    let density = 0.3989422804014327 * exp(-0.5 * near * near);
    return fma(near, density, select(1.0 - tail, tail, v < vec4<f32>()));
}
