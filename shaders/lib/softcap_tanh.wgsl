// cap * tanh(score / cap): no score is beyond the cap. tanh is clamped: it is NaN for large arguments on some adapters, and 1 to the
// last bit beyond 10.
fn softcapped(score: f32, cap: f32) -> f32 {
    return cap * tanh(clamp(score / cap, -10.0, 10.0));
}
