// cap * tanh(v / cap): no logit is beyond the cap. tanh is clamped: it is NaN for large arguments on some adapters, and 1 to the last
// bit beyond 10.

@group(0) @binding(7) var<uniform> softcap: f32;

fn activate(v: vec4<f32>) -> vec4<f32> {
    return softcap * tanh(clamp(v / softcap, vec4<f32>(-10.0), vec4<f32>(10.0)));
}
