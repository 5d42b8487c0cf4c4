// An RMSNorm has no shift.
fn add_shift(i: u32, gradient: f32) {
}
