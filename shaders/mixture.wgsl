//! mixture += the weighted softmaxes of the rows, in one read of the logits; chunk 0 begins anew. A thread owns four
//! tokens and adds rows in order.
//!
//! Sums of thousands of chunks stay accurate without compensation, which compilers may take out: chunks are added to a
//! part, and every so often the part to the sum of parts.
//! dispatch: [ceil(vocabulary / 256), 1, 1]
//! use batch
//! use branches

struct Params {
    // Logits of a row in blocks of four.
    stride4: u32,
}

const CHUNKS_OF_A_PART: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> cursor: Cursor;
@group(0) @binding(3) var<storage, read> normalizers: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> logits: array<vec4<f32>>;
// [2, stride4]: the part under way, and the sum of those before.
@group(0) @binding(5) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> mixture: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.x;
    if (at >= params.stride4) {
        return;
    }
    var part = vec4<f32>();
    for (var row = 0u; row < state.num_rows; row++) {
        let normalizer = normalizers[row];
        part = fma(exp(logits[row * params.stride4 + at] - normalizer.x), vec4<f32>(normalizer.y), part);
    }
    var before = vec4<f32>();
    if (cursor.chunk > 0u) {
        before = parts[params.stride4 + at];
        if (cursor.chunk % CHUNKS_OF_A_PART == 0u) {
            before += parts[at];
        } else {
            part += parts[at];
        }
    }
    parts[at] = part;
    parts[params.stride4 + at] = before;
    mixture[at] = before + part;
}
