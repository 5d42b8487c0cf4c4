// Reductions over a workgroup of one: software adapters pay dearly for barriers.

fn reduce_sum(value: f32, lane: u32) -> f32 {
    return value;
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    return value;
}
