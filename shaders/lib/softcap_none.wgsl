// Scores without a cap.
fn softcapped(score: f32, cap: f32) -> f32 {
    return score;
}
