// What taking rows out and putting them back share.

struct Params {
    // How many rows are picked.
    picked: u32,
    // Values of a row in blocks of four.
    width4: u32,
}

// A pick that takes no row.
const NO_ROW: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> picks: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
