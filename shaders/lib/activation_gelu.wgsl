// The exact GELU: x * (1 + erf(x / sqrt 2)) / 2, with erfc by the rational approximation of
// Abramowitz and Stegun, 7.1.26 refined with the Chebyshev fit of Numerical Recipes (erfcc, relative error < 1.2e-7).
fn erfc_positive(z: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / fma(vec4<f32>(0.5), z, vec4<f32>(1.0));
    var p = vec4<f32>(0.17087277);
    p = fma(p, t, vec4<f32>(-0.82215223));
    p = fma(p, t, vec4<f32>(1.48851587));
    p = fma(p, t, vec4<f32>(-1.13520398));
    p = fma(p, t, vec4<f32>(0.27886807));
    p = fma(p, t, vec4<f32>(-0.18628806));
    p = fma(p, t, vec4<f32>(0.09678418));
    p = fma(p, t, vec4<f32>(0.37409196));
    p = fma(p, t, vec4<f32>(1.00002368));
    p = fma(p, t, vec4<f32>(-1.26551223));
    return t * exp(max(fma(-z, z, p), vec4<f32>(-80.0)));
}

fn activate(v: vec4<f32>) -> vec4<f32> {
    let tail = 0.5 * erfc_positive(abs(v) * 0.7071067811865476);
    return v * select(1.0 - tail, tail, v < vec4<f32>());
}
