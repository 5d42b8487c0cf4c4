// Sizes of products within sequences. `a` has the heads of queries, `b` those of keys; one of the two may be what is written.

struct Params {
    // Rows of a sequence.
    length: u32,
    heads: u32,
    kv_heads: u32,
    // Dimensions of a head in blocks of four.
    head_dim4: u32,
    // Values of a row, and where its first head begins, in blocks of four.
    a_stride4: u32,
    a_first4: u32,
    b_stride4: u32,
    b_first4: u32,
    // Positions that a position sees, itself included.
    window: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

// Where a head of the first row of a sequence begins.
fn a_start(sequence: u32, head: u32) -> u32 {
    return sequence * params.length * params.a_stride4 + params.a_first4 + head * params.head_dim4;
}

fn b_start(sequence: u32, kv_head: u32) -> u32 {
    return sequence * params.length * params.b_stride4 + params.b_first4 + kv_head * params.head_dim4;
}

// Whether position `i` sees position `j`.
fn sees(i: u32, j: u32) -> bool {
    return j <= i && i - j < params.window;
}
