//! The gradient of a product's weights, added: dw[i, c] += the sum over rows of x[row, i] dy[row, c], rows ascending.
//! A thread owns INPUTS blocks of four inputs and COLUMNS blocks of four columns.
//! dispatch: [ceil(columns4 / (LANES * COLUMNS)), ceil(inputs4 / INPUTS), 1]
//! use product_back

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
// [inputs4, columns, 4], as f32 weights lie.
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = (group.x * LANES + lane) * COLUMNS;
    let input = group.y * INPUTS;
    if (column >= params.columns4) {
        return;
    }
    // What lies past the last block is the last one's again, and not stored.
    //: repeat a INPUTS
    let x$a = params.x_first4 + min(input + $au, params.inputs4 - 1u);
    //: repeat i 4
    //: repeat c COLUMNS
    var s$a_$i_$c = vec4<f32>();
    //: end
    //: end
    //: end
    //: repeat c COLUMNS
    let dy$c = params.y_first4 + min(column + $cu, params.columns4 - 1u);
    //: end
    for (var row = 0u; row < params.rows; row++) {
        //: repeat c COLUMNS
        let d$c = dy[row * params.y_stride4 + dy$c];
        //: end
        //: repeat a INPUTS
        let v$a = x[row * params.x_stride4 + x$a];
        //: repeat i 4
        //: repeat c COLUMNS
        s$a_$i_$c = fma(vec4<f32>(v$a[$i]), d$c, s$a_$i_$c);
        //: end
        //: end
        //: end
    }
    //: repeat a INPUTS
    if (input + $au < params.inputs4) {
        //: repeat c COLUMNS
        if (column + $cu < params.columns4) {
            let to = 4u * ((input + $au) * params.columns4 + column + $cu);
            //: repeat j 4
            dw[to + $ju] += vec4<f32>(s$a_0_$c[$j], s$a_1_$c[$j], s$a_2_$c[$j], s$a_3_$c[$j]);
            //: end
        }
        //: end
    }
    //: end
}
