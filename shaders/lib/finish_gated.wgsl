// Two weight column blocks per output block, gate then up: activation(gate) * up.

const BLOCKS: u32 = 2u;

fn finish(gate: vec4<f32>, up: vec4<f32>) -> vec4<f32> {
    return activate(gate) * up;
}
