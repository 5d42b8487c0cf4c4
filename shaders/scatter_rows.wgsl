//! y[picks[p]] += x[p] where something is picked. Picks are distinct, so no two threads meet.
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
    if (row != NO_ROW) {
        y[row * params.width4 + at % params.width4] += x[at];
    }
}
