// The tanh form of GELU (Hendrycks and Gimpel, arXiv 1606.08415). tanh is clamped: it is NaN for large
// arguments on some adapters, and 1 to the last bit beyond 10.
fn activate(v: vec4<f32>) -> vec4<f32> {
    let inner = 0.7978845608028654 * fma(v * v * v, vec4<f32>(0.044715), v);
    return 0.5 * v * (1.0 + tanh(clamp(inner, vec4<f32>(-10.0), vec4<f32>(10.0))));
}
