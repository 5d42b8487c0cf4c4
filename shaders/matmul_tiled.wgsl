//! The same product as matmul, for many rows: a 64 x 64 tile through workgroup memory, for prefill.
//! One thread adds what SPLITS threads add there, in the same order: a row has the same bits in both.
//! dispatch: [ceil(columns4 / 16), ceil(rows / 64), 1]
//! use batch
//! use product
//! use weight
//! use activation
//! use bias
//! use finish
//! use store

// Sixteen inputs of 64 rows, and of 16 blocks of four columns (twice that when gated).
var<workgroup> tile_x: array<vec4<f32>, 64 * 4>;
var<workgroup> tile_w: array<vec4<f32>, 16 * 16 * BLOCKS>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let column = group.x * 16u + local.x;
    let row = group.y * 64u;
    let shape = weight_shape();
    //: repeat r 4
    var sum_a$r = vec4<f32>();
    var sum_b$r = vec4<f32>();
    //: end
    let inputs = split_inputs();
    for (var first = 0u; first < params.inputs4; first += inputs) {
        let end = min(first + inputs, params.inputs4);
        //: repeat r 4
        var a$r = vec4<f32>();
        var b$r = vec4<f32>();
        //: end
        for (var k = first; k < end; k += 4u) {
            let load_k = k + thread % 4u;
            var loaded = vec4<f32>();
            if (load_k < end) {
                loaded = x[(row + thread / 4u) * params.x_stride4 + load_k];
            }
            tile_x[thread] = loaded;
            // Some threads load four inputs of four columns each.
            if (thread < 64u * BLOCKS) {
                let part = thread / (16u * BLOCKS);
                let block = thread % (16u * BLOCKS);
                var w = mat4x4<f32>();
                if (k + part < end && group.x * 16u * BLOCKS + block < shape.y) {
                    w = weight_tile(shape, k + part, group.x * 16u * BLOCKS + block);
                }
                //: repeat i 4
                tile_w[(part * 4u + $iu) * 16u * BLOCKS + block] = w[$i];
                //: end
            }
            workgroupBarrier();
            for (var part = 0u; part < 4u; part++) {
                //: repeat r 4
                let x$r = tile_x[(local.y * 4u + $ru) * 4u + part];
                //: end
                //: repeat i 4
                let w$i = tile_w[((part * 4u + $iu) * 16u + local.x) * BLOCKS];
                //: repeat r 4
                a$r = fma(w$i, vec4<f32>(x$r[$i]), a$r);
                //: end
                if (BLOCKS == 2u) {
                    let v$i = tile_w[((part * 4u + $iu) * 16u + local.x) * BLOCKS + 1u];
                    //: repeat r 4
                    b$r = fma(v$i, vec4<f32>(x$r[$i]), b$r);
                    //: end
                }
                //: end
            }
            workgroupBarrier();
        }
        //: repeat r 4
        sum_a$r += a$r;
        sum_b$r += b$r;
        //: end
    }
    if (state.done != 0u || column >= params.columns4) {
        return;
    }
    let bias_a = bias4(column * BLOCKS);
    let bias_b = bias4(column * BLOCKS + BLOCKS - 1u);
    //: repeat r 4
    store((row + local.y * 4u + $ru) * params.y_stride4 + params.y_first4 + column, finish(sum_a$r + bias_a, sum_b$r + bias_b));
    //: end
}
