//! x[row] = the scaled embedding of the row's token, for the tokens of one shard of the table.
//! dispatch: [ceil(width / 64), rows, 1]
//! use batch
//! use weight

struct Params {
    width: u32,
    stride: u32,
    // The shard holds tokens first .. first + count.
    first: u32,
    count: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = rows[id.y].token - params.first;
    if (id.x >= params.width || token >= params.count) {
        return;
    }
    // A token is a column, as in every matrix over the vocabulary, so that a tied table serves both ends.
    let shape = (vec2<u32>(params.width, params.count) + vec2<u32>(3u)) / vec2<u32>(4u);
    let block = weight4(shape, id.x, token / 4u);
    x[id.y * params.stride + id.x] = params.scale * block[token % 4u];
}
