//! logits = (exp(logit - log-sum-exp) - [column is the target]) * factors[choice], in place; 0 in rows without target and
//! in columns that stand for no token.
//! dispatch: [ceil(stride4 / (64 * BLOCKS)), min(picked, 32768), ceil(picked / 32768)]
//! use loss

@group(0) @binding(2) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> factors: array<f32>;
@group(0) @binding(4) var<storage, read_write> logits: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.z * 32768u + group.y;
    if (row >= params.picked) {
        return;
    }
    let first = row * params.stride4;
    let start = group.x * 64u * BLOCKS + lane;
    let end = min(params.stride4, start + 64u * BLOCKS);
    let wanted = targets[row];
    if (wanted == NO_TARGET) {
        for (var i = start; i < end; i += 64u) {
            logits[first + i] = vec4<f32>();
        }
        return;
    }
    let partial = partials[row];
    let factor = factors[params.choice];
    let scale = factor / partial.y;
    let column = wanted - params.first;
    for (var i = start; i < end; i += 64u) {
        let columns = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
        let p = exp(logits[first + i] - partial.x) * scale;
        let slope = p - select(vec4<f32>(), vec4<f32>(factor), columns == vec4<u32>(column));
        logits[first + i] = select(vec4<f32>(), slope, columns < vec4<u32>(params.count));
    }
}
