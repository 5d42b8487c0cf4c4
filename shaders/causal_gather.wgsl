//! out[i, h] = scale * sum over the j that i sees of m[s, h, i, j] b[j, kv(h)]. A thread owns POSITIONS queries and BLOCKS blocks of
//! four dimensions.
//! dispatch: [ceil(ceil(length / POSITIONS) * ceil(head_dim4 / BLOCKS) / 64), 1, sequences * heads]
//! use causal
//! use keys

// [sequences, heads, length, length]; what i does not see may be anything.
@group(0) @binding(1) var<storage, read> m: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let parts = (params.head_dim4 + BLOCKS - 1u) / BLOCKS;
    let i = id.x / parts * POSITIONS;
    if (i >= params.length) {
        return;
    }
    let sequence = id.z / params.heads;
    let head = id.z % params.heads;
    let b_head = b_start(sequence, head / (params.heads / params.kv_heads));
    let last = params.length - 1u;
    //: repeat n BLOCKS
    let d$n = id.x % parts * BLOCKS + $nu;
    let b_at$n = b_head + min(d$n, params.head_dim4 - 1u);
    //: end
    //: repeat q POSITIONS
    let m_at$q = (id.z * params.length + min(i + $qu, last)) * params.length;
    //: repeat n BLOCKS
    var s$q$n = vec4<f32>();
    //: end
    //: end
    for (var j = first_key(i, params.window); j <= min(i + POSITIONS - 1u, last); j++) {
        //: repeat n BLOCKS
        let b$n = b[b_at$n + j * params.b_stride4];
        //: end
        //: repeat q POSITIONS
        let m$q = vec4<f32>(select(0.0, m[m_at$q + j], sees(i + $qu, j)));
        //: repeat n BLOCKS
        s$q$n = fma(m$q, b$n, s$q$n);
        //: end
        //: end
    }
    let out_head = a_start(sequence, head);
    //: repeat q POSITIONS
    if (i + $qu < params.length) {
        //: repeat n BLOCKS
        if (d$n < params.head_dim4) {
            out[out_head + (i + $qu) * params.a_stride4 + d$n] = params.scale * s$q$n;
        }
        //: end
    }
    //: end
}
