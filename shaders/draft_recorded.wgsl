//! Drafts that were written down beforehand, four candidates for every position: for audits and tests.
//! dispatch: [1, 1, 1]
//! use batch
//! use tree

@group(0) @binding(0) var<uniform> tree: Tree;
@group(0) @binding(1) var<storage, read> state: State;
// [context, 4]
@group(0) @binding(2) var<storage, read> recorded: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> candidates: array<u32>;

@compute @workgroup_size(MAX_ROWS)
fn main(@builtin(local_invocation_index) depth: u32) {
    if (depth >= tree.depth) {
        return;
    }
    let at = min(state.length + depth, arrayLength(&recorded) - 1u);
    for (var rank = 0u; rank < 4u; rank++) {
        candidates[depth * MAX_ROWS + rank] = recorded[at][rank];
    }
}
