//! Copies a buffer: what reading and writing alone cost.
//! dispatch: [GROUPS, 1, 1]

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<f32>>;

const THREADS: u32 = GROUPS * 64u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var block = id.x; block < arrayLength(&source); block += THREADS) {
        copied[block] = source[block];
    }
}
