//! The gated delta rule: rows move a head's matrix S on, S = decay S + k (beta (v - (decay S)ᵀ k))ᵀ, and read it, Sᵀ q.
//!
//! A row's matrix is the committed one, moved on by its ancestors and itself one after the other, whichever batch they are in; so
//! its bits are those of a text that was read row by row. Rows of a chain are gone through once, by the workgroups of the first;
//! else each row's workgroups go through its ancestors again.
//! A thread has BLOCKS blocks of four of a column of S; SPLITS threads share the column.
//! dispatch: [ceil(value_dim / LANES), heads, rows]
//! use batch
//! use split

struct Params {
    // Value heads. Head h is served by the query and the key head h / group % key_heads.
    heads: u32,
    group: u32,
    key_heads: u32,
    // Elements of a value head.
    value_dim: u32,
    // Blocks of four of a query or key head, of all query heads, and of a row of `mixed`.
    key4: u32,
    keys4: u32,
    channels4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
// The matrices, [heads, key4, value_dim].
@group(0) @binding(3) var<storage, read> kept: array<vec4<f32>>;
// [rows, channels4]: queries and keys of length 1, values.
@group(0) @binding(4) var<storage, read> mixed: array<vec4<f32>>;
// [rows, heads] of (decay, beta).
@group(0) @binding(5) var<storage, read> steps: array<vec2<f32>>;
// [rows, heads, value_dim]: what the key was multiplied with, for delta_commit.
@group(0) @binding(6) var<storage, read_write> deltas: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

fn total(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

@compute @workgroup_size(LANES, SPLITS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    if (state.done != 0u) {
        return;
    }
    let rest = state.num_rows - 1u;
    let ancestors = rows[rest].mask;
    // The last row's ancestors are all the others.
    let chain = ancestors == 0u || ancestors == (2u << (rest & 31u)) - 1u;
    if (chain && group.z != 0u) {
        return;
    }
    let last = select(group.z, rest, chain);
    let own = rows[last].mask;
    let head = group.y;
    let column = group.x * LANES + local.x;
    let j = min(column, params.value_dim - 1u);
    let key = head / params.group % params.key_heads * params.key4;
    let value = 8u * params.keys4 + head * params.value_dim + j;
    //: repeat b BLOCKS
    let at$b = $bu * SPLITS + local.y;
    let there$b = at$b < params.key4;
    let block$b = min(at$b, params.key4 - 1u);
    var s$b = select(vec4<f32>(), kept[(head * params.key4 + block$b) * params.value_dim + j], there$b);
    //: end
    for (var row = 0u; row <= last; row++) {
        if (!chain && ((own >> row) & 1u) == 0u) {
            continue;
        }
        let begin = row * params.channels4;
        var sk = vec4<f32>();
        var sq = vec4<f32>();
        var kq = vec4<f32>();
        //: repeat b BLOCKS
        let k$b = select(vec4<f32>(), mixed[begin + params.keys4 + key + block$b], there$b);
        let q$b = select(vec4<f32>(), mixed[begin + key + block$b], there$b);
        sk = fma(s$b, k$b, sk);
        sq = fma(s$b, q$b, sq);
        kq = fma(k$b, q$b, kq);
        //: end
        let sums = split_all(vec4<f32>(total(sk), total(sq), total(kq), 0.0), local.x, local.y);
        let step = steps[row * params.heads + head];
        let v = mixed[begin + value / 4u][value % 4u];
        let delta = step.y * fma(-step.x, sums.x, v);
        //: repeat b BLOCKS
        s$b = fma(k$b, vec4<f32>(delta), step.x * s$b);
        //: end
        if ((chain || row == last) && local.y == 0u && column < params.value_dim) {
            let at = (row * params.heads + head) * params.value_dim + column;
            deltas[at] = delta;
            out[at] = fma(delta, sums.z, step.x * sums.y);
        }
    }
}
