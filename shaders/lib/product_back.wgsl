// What both gradients of a product y = W x share: their sizes.

struct Params {
    rows: u32,
    // Columns and inputs of W, in blocks of four.
    columns4: u32,
    inputs4: u32,
    // Of x or its gradient, and of the gradient of y: blocks of a row, and where the product's begin.
    x_stride4: u32,
    x_first4: u32,
    y_stride4: u32,
    y_first4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
