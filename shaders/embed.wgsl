//! x[row] = the embedding of the row's token, for the tokens of one shard of the table.
//! dispatch: [ceil(width / 64), rows, 1]
//! use batch
//! use weight

struct Params {
    width: u32,
    stride: u32,
    // The shard holds tokens first .. first + count.
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
// [width, count / 4] blocks of four tokens: the layout of every matrix, so that a tied table serves both ends.
@group(0) @binding(2) var<storage, read> weight: array<Packed>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = rows[id.y].token - params.first;
    if (id.x >= params.width || token >= params.count) {
        return;
    }
    let block = unpack(weight[id.x * ((params.count + 3u) / 4u) + token / 4u]);
    x[id.y * params.stride + id.x] = block[token % 4u];
}
