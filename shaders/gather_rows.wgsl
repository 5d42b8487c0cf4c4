//! y[p] = x[picks[p]], zeros where nothing is picked.
//! dispatch: spread over picked * width4
//! use pick
//! use spread

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = spread(group, lane);
    if (at >= params.picked * params.width4) {
        return;
    }
    let row = picks[at / params.width4];
    var value = vec4<f32>();
    if (row != NO_ROW) {
        value = x[row * params.width4 + at % params.width4];
    }
    y[at] = value;
}
