// What the passes over a chunk of logits share. Logits are [picked, stride4].

struct Params {
    picked: u32,
    // The token of the first column.
    first: u32,
    // Columns that stand for tokens.
    count: u32,
    stride4: u32,
    // loss_scan: 1 for the first chunk. loss_inputs: the index of the factor.
    choice: u32,
}

// The target of a row that does not count.
const NO_TARGET: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
