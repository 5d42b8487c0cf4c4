//! The same gradient as matmul_inputs, for GPUs: a tile of 64 rows and 64 inputs through workgroup memory.
//! A thread owns four rows and four inputs; its sums run over the columns in ascending order here too.
//! dispatch: [ceil(inputs4 / 16), ceil(rows / 64), 1]
//! use product_back
//! use weight
//! use store

@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
// The gradient of x, under the name that pieces know.
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

// Four blocks of columns of 64 rows: [row, block].
var<workgroup> tile_y: array<vec4<f32>, 64 * 4>;
// The same blocks of 64 inputs: [block, input in its four, four], so that neighbouring threads read neighbours.
var<workgroup> tile_w: array<vec4<f32>, 4 * 4 * 16>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let shape = vec2<u32>(params.inputs4, params.columns4);
    let part = thread % 4u;
    let slot = thread / 4u;
    let load_row = group.y * 64u + slot;
    //: repeat r 4
    //: repeat i 4
    var s$r_$i = 0.0;
    //: end
    //: end
    for (var c = 0u; c < params.columns4; c += 4u) {
        var loaded_y = vec4<f32>();
        if (load_row < params.rows && c + part < params.columns4) {
            loaded_y = dy[load_row * params.y_stride4 + params.y_first4 + c + part];
        }
        tile_y[thread] = loaded_y;
        // Some threads load four inputs of four columns each.
        if (thread < 64u) {
            let block = group.x * 16u + slot;
            var w = mat4x4<f32>();
            if (block < params.inputs4 && c + part < params.columns4) {
                w = weight_tile(shape, block, c + part);
            }
            //: repeat i 4
            tile_w[(part * 4u + $iu) * 16u + slot] = w[$i];
            //: end
        }
        workgroupBarrier();
        for (var p = 0u; p < 4u; p++) {
            //: repeat r 4
            let d$r = tile_y[(local.y * 4u + $ru) * 4u + p];
            //: end
            //: repeat i 4
            let w$i = tile_w[(p * 4u + $iu) * 16u + local.x];
            //: repeat r 4
            s$r_$i = fma(d$r.w, w$i.w, fma(d$r.z, w$i.z, fma(d$r.y, w$i.y, fma(d$r.x, w$i.x, s$r_$i))));
            //: end
            //: end
        }
        workgroupBarrier();
    }
    let block = group.x * 16u + local.x;
    let row = group.y * 64u + local.y * 4u;
    if (block >= params.inputs4) {
        return;
    }
    //: repeat r 4
    if (row + $ru < params.rows) {
        let to = (row + $ru) * params.x_stride4 + params.x_first4 + block;
        store(to, vec4<f32>(s$r_0, s$r_1, s$r_2, s$r_3));
    }
    //: end
}
