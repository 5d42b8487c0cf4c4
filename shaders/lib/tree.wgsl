// The tree of drafts that a round verifies. See src/kernels/tree.rs, which a test compares with these.

// Rows of a round, the text's last token included; ranks of the candidates of a depth.
const MAX_ROWS: u32 = 32u;

struct Tree {
    num_rows: u32,
    // Of the deepest node; 0 without drafts.
    depth: u32,
    // Children of a node, at most.
    ranks: u32,
    pad0: u32,
    // Of each row: ancestor mask, depth, and which candidate of its depth it is. Row 0 is the text's last token; the
    // candidates of depth 1 follow it.
    nodes: array<vec4<u32>, MAX_ROWS>,
}
