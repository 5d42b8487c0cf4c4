// What the passes over rows and their label means share. Rows are [picked, width4].

struct Params {
    picked: u32,
    width4: u32,
    // label_mean_inputs: the index of the factor.
    slot: u32,
}

// A row without labels.
const NO_ROW: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
// Which label mean is a row's.
@group(0) @binding(1) var<storage, read> picks: array<u32>;
