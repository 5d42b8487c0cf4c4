//! Copies a buffer: what reading and writing alone cost. Each workgroup copies one stretch.
//! dispatch: [GROUPS, 1, 1]; the buffer is a multiple of GROUPS * 256 blocks long

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stretch = arrayLength(&source) / GROUPS;
    for (var block = 0u; block < stretch; block += 256u) {
        let at = group.x * stretch + block + lane;
        //: repeat i 4
        copied[at + $iu * 64u] = source[at + $iu * 64u];
        //: end
    }
}
