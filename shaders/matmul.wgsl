//! y[row] = finish(W x[row] + bias) for ROWS rows at a time: each weight is read once for all of them.
//! A row's sums run over the inputs in one order, whatever ROWS is and in matmul_tiled too: rows do not feel each other.
//! dispatch: [ceil(columns4 / LANES), ceil(rows / ROWS), 1]
//! use batch
//! use product
//! use weight
//! use split
//! use activation
//! use bias
//! use finish
//! use store
//! use partials

@compute @workgroup_size(LANES, SPLITS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    if (state.done != 0u) {
        return;
    }
    let column = group.x * LANES + local.x;
    let row = group.y * ROWS;
    let shape = weight_shape();
    // Threads past the last column work on it again and store nothing: barriers need every thread.
    let first = min(column, params.columns4 - 1u) * BLOCKS;
    //: repeat r ROWS
    var a$r = vec4<f32>();
    var b$r = vec4<f32>();
    //: end
    let inputs = split_inputs();
    let end = min((local.y + 1u) * inputs, params.inputs4);
    for (var k = local.y * inputs; k < end; k += RUN) {
        let run_a = weight_run(shape, k, first);
        let run_b = weight_run(shape, k, first + BLOCKS - 1u);
        //: repeat k RUN
        //: repeat r ROWS
        let x$k_$r = x[(row + $ru) * params.x_stride4 + k + $ku];
        //: end
        //: repeat i 4
        let w$k_$i = run_weight(shape, run_a, $ku, $iu);
        //: repeat r ROWS
        a$r = fma(w$k_$i, vec4<f32>(x$k_$r[$i]), a$r);
        //: end
        if (BLOCKS == 2u) {
            let v$k_$i = run_weight(shape, run_b, $ku, $iu);
            //: repeat r ROWS
            b$r = fma(v$k_$i, vec4<f32>(x$k_$r[$i]), b$r);
            //: end
        }
        //: end
        //: end
    }
    // A loop, not an unrolled end: with two barriers a row, drivers take seconds to compile it.
    var a = array<vec4<f32>, ROWS>(
        //: repeat r ROWS
        a$r,
        //: end
    );
    var b = array<vec4<f32>, ROWS>(
        //: repeat r ROWS
        b$r,
        //: end
    );
    let bias_a = bias4(first);
    let bias_b = bias4(first + BLOCKS - 1u);
    for (var r = 0u; r < ROWS; r++) {
        let sum_a = split_sum(a[r], local.x, local.y);
        var sum_b = vec4<f32>();
        if (BLOCKS == 2u) {
            sum_b = split_sum(b[r], local.x, local.y);
        }
        let value = finish(sum_a + bias_a, sum_b + bias_b);
        if (local.y == 0u && column < params.columns4) {
            store((row + r) * params.y_stride4 + params.y_first4 + column, value);
        }
        store_partials(row + r, column, value, local.xy);
    }
}
