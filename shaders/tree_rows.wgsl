//! Sets up the rows of a round: the text's last token, and below it the tree of drafts.
//! dispatch: [1, 1, 1]
//! use batch
//! use tree

@group(0) @binding(0) var<uniform> tree: Tree;
@group(0) @binding(1) var<storage, read_write> state: State;
@group(0) @binding(2) var<storage, read_write> rows: array<Row>;
@group(0) @binding(3) var<storage, read> text: array<u32>;
// [depth, rank]
@group(0) @binding(4) var<storage, read> candidates: array<u32>;

@compute @workgroup_size(MAX_ROWS)
fn main(@builtin(local_invocation_index) i: u32) {
    let anchor = state.length - 1u;
    if (state.done != 0u || i >= tree.num_rows) {
        return;
    }
    let node = tree.nodes[i];
    var token = text[anchor];
    if (i > 0u) {
        token = candidates[(node.y - 1u) * MAX_ROWS + node.z];
    }
    rows[i] = Row(token, anchor + node.y, node.x, 0u, 0u);
    if (i == 0u) {
        state.committed = anchor;
        state.num_rows = tree.num_rows;
        state.logit_row = 0u;
    }
}
