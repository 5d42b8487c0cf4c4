// One thread a value, over workgroups in two dimensions: WebGPU allows 65,535 in one. See src/kernels/train/spread.rs.
fn spread(group: vec3<u32>, lane: u32) -> u32 {
    return (group.y * 32768u + group.x) * 64u + lane;
}
