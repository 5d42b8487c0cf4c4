// The logit of a probability; of one that is too small to hold, the logit of the smallest that is not.
fn likelihood(value: f32) -> f32 {
    return log(max(value, 1.0e-37));
}
