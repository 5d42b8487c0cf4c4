// Logits as they are.
fn likelihood(value: f32) -> f32 {
    return value;
}
