// One weight column block per output block, passed through the activation.

const BLOCKS: u32 = 1u;

fn finish(v0: vec4<f32>, v1: vec4<f32>) -> vec4<f32> {
    return activate(v0);
}
