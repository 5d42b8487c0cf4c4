//! y[row] = finish(W x[row] + bias) for ROWS rows at a time: each weight is read once for all of them.
//! A row's sums run over the inputs in one order, whatever ROWS is and in matmul_tiled too: rows do not feel each other.
//! dispatch: [ceil(columns4 * BLOCKS / (LANES * OWN)), ceil(rows / ROWS), 1]
//! use batch
//! use product
//! use weight
//! use rows
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
    let row = group.y * ROWS;
    let shape = weight_shape();
    // OWN blocks of four columns. Threads past the last ones work on those again and store nothing: barriers need every thread.
    let block = min((group.x * LANES + local.x) * OWN, shape.y - OWN);
    //: repeat r ROWS
    let from$r = (row + $ru) * params.x_stride4;
    //: repeat o OWN
    var sum$r_$o = vec4<f32>();
    //: end
    //: end
    let inputs = split_inputs();
    let end = min((local.y + 1u) * inputs, params.inputs4);
    for (var k = local.y * inputs; k < end; k += RUNS * RUN) {
        // All weights of a trip are on their way before one is waited for.
        //: repeat n RUNS
        //: repeat o OWN
        let run$n_$o = weight_run(shape, k + $nu * RUN, block + $ou);
        //: end
        //: end
        //: repeat n RUNS
        //: repeat k RUN
        //: repeat r ROWS
        let x$n_$k_$r = x[from$r + k + $nu * RUN + $ku];
        //: end
        //: repeat i 4
        //: repeat o OWN
        let w$n_$k_$i_$o = run_weight(shape, run$n_$o, $ku, $iu);
        //: repeat r ROWS
        sum$r_$o = fma(w$n_$k_$i_$o, vec4<f32>(x$n_$k_$r[$i]), sum$r_$o);
        //: end
        //: end
        //: end
        //: end
        //: end
    }
    store_rows(array<vec4<f32>, ROWS * OWN>(
        //: repeat r ROWS
        //: repeat o OWN
        sum$r_$o,
        //: end
        //: end
    ), row, group.x, local.xy);
}
