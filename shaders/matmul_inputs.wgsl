//! The gradient of a product's inputs: dx[row, i] = the sum over columns of dy[row, c] W[i, c], set or added.
//! A thread owns ROWS rows and BLOCKS blocks of four inputs, so what it loads is used often; all its sums run over the
//! columns in ascending order.
//! dispatch: [ceil(inputs4 / (LANES * BLOCKS)), ceil(rows / ROWS), 1]
//! use product_back
//! use weight
//! use store

@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
// The gradient of x, under the name that pieces know.
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = (group.x * LANES + lane) * BLOCKS;
    let row = group.y * ROWS;
    let shape = vec2<u32>(params.inputs4, params.columns4);
    if (block >= params.inputs4) {
        return;
    }
    // What lies past the last row or block is the last one's again, and not stored.
    //: repeat r ROWS
    let dy$r = min(row + $ru, params.rows - 1u) * params.y_stride4 + params.y_first4;
    //: end
    //: repeat b BLOCKS
    let w$b = min(block + $bu, params.inputs4 - 1u);
    //: repeat i 4
    //: repeat r ROWS
    var s$r_$b_$i = 0.0;
    //: end
    //: end
    //: end
    for (var c = 0u; c < params.columns4; c++) {
        //: repeat r ROWS
        let d$r = dy[dy$r + c];
        //: end
        //: repeat b BLOCKS
        let v$b = weight_tile(shape, w$b, c);
        //: repeat i 4
        let v$b_$i = v$b[$i];
        //: repeat r ROWS
        s$r_$b_$i = fma(d$r.w, v$b_$i.w, fma(d$r.z, v$b_$i.z, fma(d$r.y, v$b_$i.y, fma(d$r.x, v$b_$i.x, s$r_$b_$i))));
        //: end
        //: end
        //: end
    }
    //: repeat r ROWS
    if (row + $ru < params.rows) {
        let to = (row + $ru) * params.x_stride4 + params.x_first4 + block;
        //: repeat b BLOCKS
        if (block + $bu < params.inputs4) {
            store(to + $bu, vec4<f32>(s$r_$b_0, s$r_$b_1, s$r_$b_2, s$r_$b_3));
        }
        //: end
    }
    //: end
}
