//! The gradients of `y = W x + bias`.
//!
//! Software adapters pay for every load, so there a thread owns as many sums as one compiles in a second or so; GPUs share
//! what they load through workgroup memory.

use bytemuck::{Pod, Zeroable};

use super::{Columns, Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, layout};
use crate::kernels::{Store, WeightFormat};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| {
        let forms = || Cut::ALL.into_iter().flat_map(|cut| WeightFormat::all().map(move |format| (cut, format)));
        let inputs = |store| forms().map(move |(cut, format)| matmul_inputs_variant(cut, format, store));
        Store::OF_SUMS.into_iter().flat_map(inputs).chain(Cut::ALL.map(matmul_weights_variant)).collect()
    })
    .params(layout!(ProductParams: rows, columns4, inputs4, x_stride4, x_first4, y_stride4, y_first4)),
    Declared::new(|_| vec![column_sums_variant()]).params(layout!(ColumnSumsParams: rows, columns4, stride4, first4)),
];

/// The uniform of `matmul_inputs.wgsl` and `matmul_weights.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ProductParams {
    pub rows: u32,
    pub columns4: u32,
    pub inputs4: u32,
    pub x_stride4: u32,
    pub x_first4: u32,
    pub y_stride4: u32,
    pub y_first4: u32,
}

impl ProductParams {
    fn new([rows, columns4, inputs4]: [u32; 3], x: Columns<'_>, y: Columns<'_>) -> Self {
        Self {
            rows,
            columns4,
            inputs4,
            x_stride4: x.stride4,
            x_first4: x.first4,
            y_stride4: y.stride4,
            y_first4: y.first4,
        }
    }
}

/// The uniform of `column_sums.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ColumnSumsParams {
    pub rows: u32,
    pub columns4: u32,
    pub stride4: u32,
    pub first4: u32,
}

/// The cut of a product: for the adapter, or as a test wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Many sums a thread.
    Blocks,
    /// Tiles of 64 by 64 sums a workgroup.
    Tiles,
}

impl Cut {
    /// Every way to cut the work.
    pub const ALL: [Self; 2] = [Self::Blocks, Self::Tiles];

    fn of(gpu: &Gpu) -> Self {
        if gpu.summary().software { Self::Blocks } else { Self::Tiles }
    }
}

/// Threads of a workgroup, a software adapter's 8 at once; rows and blocks of four inputs of a thread.
const INPUTS_SHAPE: [u32; 3] = [8, 8, 4];

/// Threads of a workgroup; blocks of four inputs and of four columns of a thread.
const WEIGHTS_SHAPE: [u32; 3] = [8, 4, 4];

/// The variant for weights of a format.
pub(crate) fn matmul_inputs_variant(cut: Cut, format: WeightFormat, store: Store) -> Variant {
    let bound = |shader| format.bound(Variant::of(shader)).piece("store", store.piece());
    let [lanes, rows, blocks] = INPUTS_SHAPE;
    match cut {
        Cut::Blocks => {
            bound("matmul_inputs").constant("LANES", lanes).constant("ROWS", rows).constant("BLOCKS", blocks)
        }
        Cut::Tiles => bound("matmul_inputs_tiled"),
    }
}

/// The one variant of a cut.
pub(crate) fn matmul_weights_variant(cut: Cut) -> Variant {
    let [lanes, inputs, columns] = WEIGHTS_SHAPE;
    match cut {
        Cut::Blocks => Variant::of("matmul_weights")
            .constant("LANES", lanes)
            .constant("INPUTS", inputs)
            .constant("COLUMNS", columns),
        Cut::Tiles => Variant::of("matmul_weights_tiled"),
    }
}

/// The one variant.
pub(crate) fn column_sums_variant() -> Variant {
    Variant::of("column_sums")
}

/// `dx[r, i] = sum over c of dy[r, c] W[i, c]`, or added; `weight` is packed as for `matmul`.
pub(crate) fn matmul_inputs(
    gpu: &Gpu,
    format: WeightFormat,
    store: Store,
    sizes: [u32; 3],
    dy: Columns<'_>,
    weight: &Buffer,
    dx: Columns<'_>,
) -> Op {
    matmul_inputs_cut(gpu, (Cut::of(gpu), format, store), sizes, dy, weight, dx)
}

/// [`matmul_inputs`] whose work is cut as asked for.
pub(crate) fn matmul_inputs_cut(
    gpu: &Gpu,
    (cut, format, store): (Cut, WeightFormat, Store),
    [rows, columns4, inputs4]: [u32; 3],
    dy: Columns<'_>,
    weight: &Buffer,
    dx: Columns<'_>,
) -> Op {
    let kernel = gpu.kernel(&matmul_inputs_variant(cut, format, store));
    let uniform = gpu.uniform("matmul inputs", &ProductParams::new([rows, columns4, inputs4], dx, dy));
    let bind_group = gpu.bind(&kernel, &[&uniform, dy.buffer, weight, dx.buffer]);
    let [lanes, tall, blocks] = INPUTS_SHAPE;
    let [wide, tall] = match cut {
        Cut::Blocks => [lanes * blocks, tall],
        Cut::Tiles => [16, 64],
    };
    Op::single(kernel, bind_group, fixed([inputs4.div_ceil(wide), rows.div_ceil(tall), 1]))
}

/// `dw[i, c] += sum over r of x[r, i] dy[r, c]`; `dw` is f32 and packed as the weight.
pub(crate) fn matmul_weights(gpu: &Gpu, sizes: [u32; 3], x: Columns<'_>, dy: Columns<'_>, dw: &Buffer) -> Op {
    matmul_weights_cut(gpu, Cut::of(gpu), sizes, x, dy, dw)
}

/// [`matmul_weights`] whose work is cut as asked for.
pub(crate) fn matmul_weights_cut(
    gpu: &Gpu,
    cut: Cut,
    [rows, columns4, inputs4]: [u32; 3],
    x: Columns<'_>,
    dy: Columns<'_>,
    dw: &Buffer,
) -> Op {
    let kernel = gpu.kernel(&matmul_weights_variant(cut));
    let uniform = gpu.uniform("matmul weights", &ProductParams::new([rows, columns4, inputs4], x, dy));
    let bind_group = gpu.bind(&kernel, &[&uniform, x.buffer, dy.buffer, dw]);
    let [lanes, inputs, columns] = WEIGHTS_SHAPE;
    let [wide, tall] = match cut {
        Cut::Blocks => [lanes * columns, inputs],
        Cut::Tiles => [16, 16],
    };
    Op::single(kernel, bind_group, fixed([columns4.div_ceil(wide), inputs4.div_ceil(tall), 1]))
}

/// `sums[c] += sum over r of dy[r, c]`: the gradient of a bias.
pub(crate) fn column_sums(gpu: &Gpu, rows: u32, columns4: u32, dy: Columns<'_>, sums: &Buffer) -> Op {
    let kernel = gpu.kernel(&column_sums_variant());
    let params = ColumnSumsParams { rows, columns4, stride4: dy.stride4, first4: dy.first4 };
    let bind_group = gpu.bind(&kernel, &[&gpu.uniform("column sums", &params), dy.buffer, sums]);
    Op::single(kernel, bind_group, fixed([columns4.div_ceil(64), 1, 1]))
}
