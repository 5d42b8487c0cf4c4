//! sums[thread] = the sum of every THREADS-th block of a buffer: what reading alone costs.
//! dispatch: [GROUPS, 1, 1]; the buffer is a multiple of 4 * THREADS blocks long

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4<f32>>;

const THREADS: u32 = GROUPS * 64u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    //: repeat i 4
    var sum$i = vec4<f32>();
    //: end
    for (var block = id.x; block < arrayLength(&source); block += 4u * THREADS) {
        //: repeat i 4
        sum$i += source[block + $iu * THREADS];
        //: end
    }
    sums[id.x] = (sum0 + sum1) + (sum2 + sum3);
}
