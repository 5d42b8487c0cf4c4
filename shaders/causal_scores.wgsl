//! m[s, h, i, j] = scale * a[i, h] . b[j, kv(h)] for the j that i sees. A thread owns SIDE queries and SIDE keys, and only the blocks
//! that touch the lower triangle have one.
//! dispatch: [ceil(blocks / 64), 1, sequences * heads]
//! use causal

@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
// [sequences, heads, length, length]
@group(0) @binding(3) var<storage, read_write> m: array<f32>;

fn product(x: vec4<f32>, y: vec4<f32>, sum: f32) -> f32 {
    return fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, sum))));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let side = (params.length + SIDE - 1u) / SIDE;
    if (id.x >= side * (side + 1u) / 2u) {
        return;
    }
    // Blocks are numbered row by row; the root may be rounded to the row before or after.
    var block = u32((sqrt(8.0 * f32(id.x) + 1.0) - 1.0) * 0.5);
    block -= select(0u, 1u, block * (block + 1u) / 2u > id.x);
    block += select(0u, 1u, (block + 1u) * (block + 2u) / 2u <= id.x);
    let i = block * SIDE;
    let j = (id.x - block * (block + 1u) / 2u) * SIDE;
    let sequence = id.z / params.heads;
    let head = id.z % params.heads;
    let a_head = a_start(sequence, head);
    let b_head = b_start(sequence, head / (params.heads / params.kv_heads));
    let last = params.length - 1u;
    //: repeat n SIDE
    let a_at$n = a_head + min(i + $nu, last) * params.a_stride4;
    let b_at$n = b_head + min(j + $nu, last) * params.b_stride4;
    //: end
    //: repeat q SIDE
    //: repeat k SIDE
    var s$q$k = 0.0;
    //: end
    //: end
    for (var d = 0u; d < params.head_dim4; d++) {
        //: repeat q SIDE
        let a$q = a[a_at$q + d];
        //: end
        //: repeat k SIDE
        let b$k = b[b_at$k + d];
        //: repeat q SIDE
        s$q$k = product(a$q, b$k, s$q$k);
        //: end
        //: end
    }
    let m_head = id.z * params.length * params.length;
    //: repeat q SIDE
    if (i + $qu < params.length) {
        let m_row = m_head + (i + $qu) * params.length;
        //: repeat k SIDE
        if (sees(i + $qu, j + $ku)) {
            m[m_row + j + $ku] = params.scale * s$q$k;
        }
        //: end
    }
    //: end
}
