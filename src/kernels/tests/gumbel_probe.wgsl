// Shows what random.wgsl computes. Linked with it by a test.

@group(0) @binding(0) var<storage, read> inputs: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> hashes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> variates: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&inputs)) {
        hashes[id.x] = pcg4d(inputs[id.x]);
        variates[id.x] = gumbel_of(inputs[id.x].w);
    }
}
