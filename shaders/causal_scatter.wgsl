//! out[j, kv] = scale * sum over the heads h of kv and the i that see j of m[s, h, i, j] a[i, h]. A thread owns POSITIONS keys and
//! BLOCKS blocks of four dimensions.
//! dispatch: [ceil(ceil(length / POSITIONS) * ceil(head_dim4 / BLOCKS) / 64), 1, sequences * kv_heads]
//! use causal

// [sequences, heads, length, length]; what i does not see may be anything.
@group(0) @binding(1) var<storage, read> m: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let parts = (params.head_dim4 + BLOCKS - 1u) / BLOCKS;
    let j = id.x / parts * POSITIONS;
    if (j >= params.length) {
        return;
    }
    let sequence = id.z / params.kv_heads;
    let kv_head = id.z % params.kv_heads;
    let shared_by = params.heads / params.kv_heads;
    let last = params.length - 1u;
    // The last of these keys is seen by the `window - 1` positions after it.
    let end = min(params.length, j + POSITIONS - 1u + min(params.window, params.length));
    //: repeat n BLOCKS
    let d$n = id.x % parts * BLOCKS + $nu;
    //: end
    //: repeat k POSITIONS
    let column$k = min(j + $ku, last);
    //: repeat n BLOCKS
    var s$k$n = vec4<f32>();
    //: end
    //: end
    for (var head = kv_head * shared_by; head < (kv_head + 1u) * shared_by; head++) {
        let m_head = (sequence * params.heads + head) * params.length * params.length;
        let a_head = a_start(sequence, head);
        //: repeat n BLOCKS
        let a_at$n = a_head + min(d$n, params.head_dim4 - 1u);
        //: end
        for (var i = j; i < end; i++) {
            //: repeat n BLOCKS
            let a$n = a[a_at$n + i * params.a_stride4];
            //: end
            let m_row = m_head + i * params.length;
            //: repeat k POSITIONS
            let m$k = vec4<f32>(select(0.0, m[m_row + column$k], sees(i, j + $ku)));
            //: repeat n BLOCKS
            s$k$n = fma(m$k, a$n, s$k$n);
            //: end
            //: end
        }
    }
    let out_head = b_start(sequence, kv_head);
    //: repeat k POSITIONS
    if (j + $ku < params.length) {
        //: repeat n BLOCKS
        if (d$n < params.head_dim4) {
            out[out_head + (j + $ku) * params.b_stride4 + d$n] = params.scale * s$k$n;
        }
        //: end
    }
    //: end
}
