//! The same gradient as matmul_weights, for GPUs: a tile of 64 inputs and 64 columns, with 16 rows at a time in workgroup
//! memory. A thread owns four inputs and four columns; its sums run over the rows in ascending order here too.
//! dispatch: [ceil(columns4 / 16), ceil(inputs4 / 16), 1]
//! use product_back

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
// [inputs4, columns, 4], as f32 weights lie.
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>;

// 16 blocks of four of 16 rows.
var<workgroup> tile_x: array<vec4<f32>, 16 * 16>;
var<workgroup> tile_y: array<vec4<f32>, 16 * 16>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let column = group.x * 16u + local.x;
    // Thread (x, y) loads block x of row y; its inputs are those of block y.
    let load_input = group.y * 16u + local.x;
    let input = group.y * 16u + local.y;
    //: repeat i 4
    var s$i = vec4<f32>();
    //: end
    for (var first = 0u; first < params.rows; first += 16u) {
        let row = first + local.y;
        var loaded_x = vec4<f32>();
        if (row < params.rows && load_input < params.inputs4) {
            loaded_x = x[row * params.x_stride4 + params.x_first4 + load_input];
        }
        var loaded_y = vec4<f32>();
        if (row < params.rows && column < params.columns4) {
            loaded_y = dy[row * params.y_stride4 + params.y_first4 + column];
        }
        tile_x[thread] = loaded_x;
        tile_y[thread] = loaded_y;
        workgroupBarrier();
        for (var r = 0u; r < 16u; r++) {
            let v = tile_x[r * 16u + local.y];
            let d = tile_y[r * 16u + local.x];
            //: repeat i 4
            s$i = fma(vec4<f32>(v[$i]), d, s$i);
            //: end
        }
        workgroupBarrier();
    }
    if (column >= params.columns4 || input >= params.inputs4) {
        return;
    }
    let to = 4u * (input * params.columns4 + column);
    //: repeat j 4
    dw[to + $ju] += vec4<f32>(s0[$j], s1[$j], s2[$j], s3[$j]);
    //: end
}
