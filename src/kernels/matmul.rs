//! Products with weights: `y = finish(W x + bias)`, for few rows (`matmul`) and for many (`matmul_tiled`).

use bytemuck::{Pod, Zeroable};

use super::declared::{ACTIVATIONS, Declared, layout};
use super::weights::WeightFormat;
use super::{Form, Grid, KernelSet, MAX_CHUNK_ROWS, Op, Over, Widths};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(variants).params(layout!(MatmulParams: columns4, inputs4, x_stride4, y_stride4, y_first4))];

/// The activation that follows a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Silu,
    Gelu,
    GeluTanh,
    /// `1 / (1 + exp(-x))`, of gates alone.
    Sigmoid,
    /// A soft cap, of logits alone.
    Softcap,
}

impl Activation {
    /// The piece that computes it.
    pub(super) fn piece(self) -> &'static str {
        match self {
            Self::None => "activation_none",
            Self::Silu => "activation_silu",
            Self::Gelu => "activation_gelu",
            Self::GeluTanh => "activation_gelu_tanh",
            Self::Sigmoid => "activation_sigmoid",
            Self::Softcap => "activation_softcap",
        }
    }
}

/// The treatment of what lies where a kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Replaces it.
    Set,
    /// Adds to it.
    Add,
    /// Multiplies it: a gate.
    Mul,
}

impl Store {
    /// The ways to store a sum, or a part of one.
    pub const OF_SUMS: [Self; 2] = [Self::Set, Self::Add];

    /// The way in which the n-th part of a sum is stored, counted from 0.
    pub fn nth(n: usize) -> Self {
        if n == 0 { Self::Set } else { Self::Add }
    }

    /// The piece that does it.
    pub(super) fn piece(self) -> &'static str {
        match self {
            Self::Set => "store_set",
            Self::Add => "store_add",
            Self::Mul => "store_mul",
        }
    }
}

/// What becomes of the sums of a product's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// `activation(y)`.
    Plain,
    /// Gate and up columns alternate in blocks of four: `activation(gate) * up`.
    Gated,
}

impl Finish {
    /// The one for an MLP with a gate, or without.
    pub fn gated(gated: bool) -> Self {
        if gated { Self::Gated } else { Self::Plain }
    }

    /// Blocks of columns of the weights that make an output block.
    pub fn blocks(self) -> u32 {
        match self {
            Self::Plain => 1,
            Self::Gated => 2,
        }
    }

    /// The piece that computes it.
    fn piece(self) -> &'static str {
        match self {
            Self::Plain => "finish_plain",
            Self::Gated => "finish_gated",
        }
    }
}

/// Whether a product has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    /// It has none.
    None,
    /// It is added to the sums.
    Add,
}

impl Bias {
    /// With one, or without.
    pub fn with(bias: bool) -> Self {
        if bias { Self::Add } else { Self::None }
    }

    /// The piece that does it.
    fn piece(self) -> &'static str {
        match self {
            Self::None => "bias_none",
            Self::Add => "bias_add",
        }
    }
}

/// Numbers of runs that a thread can load at a time, most first. A stretch of inputs is a multiple of each.
const RUNS: [u32; 3] = [4, 2, 1];

/// Every product that a set can have.
fn variants(set: KernelSet) -> Vec<Variant> {
    let mut variants = Vec::new();
    let shapes = || set.product_shapes().iter().copied();
    let formats = || WeightFormat::all().flat_map(|format| shapes().map(move |shape| (format, shape)));
    for ((format, shape), activation) in formats().flat_map(|of| ACTIVATIONS.map(|activation| (of, activation))) {
        for (widths, switches) in [Widths::Each, Widths::Fixed].into_iter().flat_map(|w| (0..8).map(move |s| (w, s))) {
            let [gated, bias, adds] = [1, 2, 4].map(|bit| switches & bit != 0);
            let (finish, bias) = (Finish::gated(gated), Bias::with(bias));
            let store = if adds { Store::Add } else { Store::Set };
            let form = MatmulForm { set, widths, shape, format, activation, finish, bias, store };
            variants.extend(widths.rows().iter().flat_map(|&rows| form.narrow_variants(rows, "partials_none")));
            variants.extend(form.tiled());
        }
    }
    let plain = |(format, shape)| MatmulForm { shape, ..MatmulForm::plain(set, Widths::Fixed, format, 0) };
    let biased = |widths| [Bias::None, Bias::Add].map(|bias| (widths, bias));
    for (widths, bias) in [Widths::Each, Widths::Fixed].into_iter().flat_map(biased) {
        for form in formats().flat_map(|of| MatmulForm { widths, bias, ..plain(of) }.gates()) {
            variants.extend(widths.rows().iter().flat_map(|&rows| form.narrow_variants(rows, "partials_none")));
            variants.extend(form.tiled());
        }
    }
    let with_partials = |form: MatmulForm| form.narrow_variants(PARTIALS_ROWS, form.partials_piece());
    variants.extend(formats().map(plain).flat_map(with_partials));
    for capped in formats().map(|of| MatmulForm { activation: Activation::Softcap, ..plain(of) }) {
        variants.extend(with_partials(capped));
        let widths = Widths::Each.rows().iter();
        variants.extend(widths.flat_map(|&rows| capped.narrow_variants(rows, "partials_none")));
        variants.extend(MatmulForm { widths: Widths::Each, ..capped }.tiled());
    }
    variants
}

/// The form of a product: everything that selects pipelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatmulForm {
    pub set: KernelSet,
    pub widths: Widths,
    /// Column blocks and input splits of a workgroup: [`KernelSet::product_shape`] of the whole matrix, as sums depend on it.
    pub shape: (u32, u32),
    pub format: WeightFormat,
    pub activation: Activation,
    pub finish: Finish,
    pub bias: Bias,
    pub store: Store,
}

impl MatmulForm {
    /// The plainest product of a format, with a matrix of `columns4` blocks of columns in all its shards.
    pub fn plain(set: KernelSet, widths: Widths, format: WeightFormat, columns4: u32) -> Self {
        let (shape, activation) = (set.product_shape(columns4), Activation::None);
        Self { set, widths, shape, format, activation, finish: Finish::Plain, bias: Bias::None, store: Store::Set }
    }

    /// The forms of products that are gates of what lies where they write.
    fn gates(self) -> [Self; 2] {
        [Activation::Sigmoid, Activation::Silu].map(|activation| Self { activation, store: Store::Mul, ..self })
    }

    fn bound(self, shader: &'static str) -> Variant {
        self.format
            .bound(Variant::of(shader))
            .piece("activation", self.activation.piece())
            .piece("bias", self.bias.piece())
            .piece("finish", self.finish.piece())
            .piece("store", self.store.piece())
    }

    /// The variant for `rows` rows at a time of `inputs4` blocks of inputs.
    pub fn narrow(self, rows: u32, inputs4: u32) -> Variant {
        self.narrow_with(rows, self.runs(rows, inputs4), "partials_none")
    }

    /// The variant for `rows` rows at a time that keeps softmax partials of its outputs.
    pub fn with_partials(self, rows: u32, inputs4: u32) -> Variant {
        self.narrow_with(rows, self.runs(rows, inputs4), self.partials_piece())
    }

    /// The variants for `rows` rows at a time of all numbers of inputs.
    fn narrow_variants(self, rows: u32, partials: &'static str) -> impl Iterator<Item = Variant> {
        RUNS.into_iter()
            .filter(move |&runs| runs <= self.most_runs(rows))
            .map(move |runs| self.narrow_with(rows, runs, partials))
    }

    fn partials_piece(self) -> &'static str {
        if self.set == KernelSet::Software { "partials_block" } else { "partials_group" }
    }

    fn narrow_with(self, rows: u32, runs: u32, partials: &'static str) -> Variant {
        let (lanes, splits) = self.shape;
        self.bound("matmul")
            .piece("rows", if splits == 1 { "rows_own" } else { "rows_shared" })
            .piece("partials", partials)
            .constant("LANES", lanes)
            .constant("SPLITS", splits)
            .constant("OWN", self.own())
            .constant("ROWS", rows)
            .constant("RUN", self.format.run())
            .constant("RUNS", runs)
    }

    /// Blocks of columns that a thread sums: all of an output's where no other thread can add to it.
    fn own(self) -> u32 {
        if self.shape.1 == 1 { self.finish.blocks() } else { 1 }
    }

    /// Output blocks of a workgroup.
    fn outputs(self) -> u32 {
        self.shape.0 * self.own() / self.finish.blocks()
    }

    /// Runs that a thread loads before it needs the first, so that they are on their way together: as many as divide the inputs.
    fn runs(self, rows: u32, inputs4: u32) -> u32 {
        let fits = |runs: &u32| *runs <= self.most_runs(rows) && inputs4.is_multiple_of(*runs);
        RUNS.into_iter().find(fits).unwrap_or(1)
    }

    /// 64 bytes of elements at least, 128 where few rows leave the registers for them. A run of blocks is enough by itself, and the
    /// processor does not wait for loads.
    fn most_runs(self, rows: u32) -> u32 {
        let bytes = if rows <= 2 { 128 } else { 64 };
        let one = self.set == KernelSet::Software || self.format.blocks().is_some();
        if one { 1 } else { bytes / (16 * self.format.element_bytes() as u32) }
    }

    /// Blocks of columns that [`matmul_with_partials`] keeps one partial of.
    pub fn partial_columns4(self) -> u32 {
        if self.set == KernelSet::Software { 1 } else { self.shape.0 }
    }

    /// Softmax partials that it keeps of a row of `columns4` blocks.
    pub fn partials(self, columns4: u32) -> u32 {
        columns4.div_ceil(self.partial_columns4())
    }

    /// The variant for prefill, where this set and these widths have one of their own.
    pub fn tiled(self) -> Option<Variant> {
        let has_one = self.set != KernelSet::Software && self.widths == Widths::Each;
        has_one.then(|| self.bound("matmul_tiled").constant("SPLITS", self.shape.1))
    }
}

/// The uniform of `matmul.wgsl` and `matmul_tiled.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MatmulParams {
    pub columns4: u32,
    pub inputs4: u32,
    pub x_stride4: u32,
    pub y_stride4: u32,
    pub y_first4: u32,
}

/// The buffers and sizes of a product. `weight` is packed in the form's format.
#[derive(Clone, Copy)]
pub(crate) struct MatmulIo<'a> {
    pub state: &'a Buffer,
    pub x: &'a Buffer,
    pub weight: &'a Buffer,
    pub y: &'a Buffer,
    pub bias: Option<&'a Buffer>,
    /// The uniform of a soft cap.
    pub softcap: Option<&'a Buffer>,
    /// Output columns of this shard in blocks of four; a gated product has half as many as its weight.
    pub columns4: u32,
    pub inputs4: u32,
    pub x_stride4: u32,
    pub y_stride4: u32,
    pub y_first4: u32,
    pub over: Over,
}

impl MatmulIo<'_> {
    fn params(&self) -> MatmulParams {
        MatmulParams {
            columns4: self.columns4,
            inputs4: self.inputs4,
            x_stride4: self.x_stride4,
            y_stride4: self.y_stride4,
            y_first4: self.y_first4,
        }
    }

    fn grid(&self) -> Grid {
        Grid::Matmul { columns4: self.columns4, over: self.over }
    }
}

/// The product of `x` with a weight shard.
pub(crate) fn matmul(gpu: &Gpu, form: MatmulForm, io: MatmulIo<'_>) -> Op {
    assert_eq!(form.bias, Bias::with(io.bias.is_some()), "matmul: bias");
    assert_eq!(form.activation == Activation::Softcap, io.softcap.is_some(), "matmul: soft cap");
    let params = gpu.uniform("matmul", &io.params());
    let columns4 = form.outputs();
    let mut forms: Vec<Form> = form
        .widths
        .rows()
        .iter()
        .map(|&rows| Form { kernel: gpu.kernel(&form.narrow(rows, io.inputs4)), rows, columns4 })
        .collect();
    if let Some(tiled) = form.tiled() {
        forms.push(Form { kernel: gpu.kernel(&tiled), rows: MAX_CHUNK_ROWS as u32, columns4: 16 });
    }
    let mut buffers = vec![&params, io.state, io.weight, io.x, io.y];
    buffers.extend(io.bias.into_iter().chain(io.softcap));
    let bind_group = gpu.bind(&forms[0].kernel, &buffers);
    Op { forms, bind_group, grid: io.grid() }
}

/// The uniform of `lib/partial_of.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Partials {
    /// Columns that are tokens; those after them are padding.
    pub vocab: u32,
    /// Softmax partials of a row, and where those of this shard begin.
    pub stride: u32,
    pub first: u32,
}

/// Rows at a time of [`matmul_with_partials`].
const PARTIALS_ROWS: u32 = 8;

/// Makes [`matmul`] that also writes (highest, sum of exp(y - highest)) of every few neighbouring outputs to `buffer`:
/// what their softmax needs, without a read of `y`. In one width: it is made for a session's rarer ops, and rows do not
/// feel the width.
pub(crate) fn matmul_with_partials(
    gpu: &Gpu,
    form: MatmulForm,
    io: MatmulIo<'_>,
    partials: Partials,
    buffer: &Buffer,
) -> Op {
    assert!(form.bias == Bias::None && io.bias.is_none(), "matmul with partials: no bias");
    let kernel = gpu.kernel(&form.with_partials(PARTIALS_ROWS, io.inputs4));
    let (params, partials) = (gpu.uniform("matmul", &io.params()), gpu.uniform("partials", &partials));
    let mut buffers = vec![&params, io.state, io.weight, io.x, io.y, &partials, buffer];
    buffers.extend(io.softcap);
    let bind_group = gpu.bind(&kernel, &buffers);
    Op { forms: vec![Form { kernel, rows: PARTIALS_ROWS, columns4: form.outputs() }], bind_group, grid: io.grid() }
}
