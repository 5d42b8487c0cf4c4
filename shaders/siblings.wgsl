//! Makes the next branches of a nucleus the batch under way: siblings over the text before them. Rows that are left over
//! repeat the first one and weigh nothing, also where the context has no room for more.
//! dispatch: [1, 1, 1]
//! use batch
//! use branches

struct Params {
    context: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> cursor: Cursor;
@group(0) @binding(2) var<storage, read> nuclei: array<Nucleus>;
@group(0) @binding(3) var<storage, read> branches: array<Branch>;
@group(0) @binding(4) var<storage, read_write> state: State;
@group(0) @binding(5) var<storage, read_write> rows: array<Row>;
@group(0) @binding(6) var<storage, read_write> row_weights: array<f32>;

@compute @workgroup_size(1)
fn main() {
    if (state.done != 0u) {
        return;
    }
    let nucleus = nuclei[cursor.nucleus];
    let first = min(cursor.first, nucleus.count);
    let room = params.context - min(nucleus.position, params.context);
    let count = min(min(nucleus.count - first, cursor.most), room);
    for (var i = 0u; i < cursor.most; i++) {
        let used = i < count;
        let branch = branches[nucleus.first + select(0u, first + i, used)];
        rows[i] = Row(branch.token, nucleus.position, select(1u, 1u << i, used), 0u, 0u);
        row_weights[i] = select(0.0, branch.probability, used);
    }
    state.committed = nucleus.position;
    state.num_rows = count;
    state.logit_row = 0u;
    cursor.chunk = first / cursor.most;
    cursor.first = first + cursor.advance * count;
}
