//! Known input through every kernel, against the CPU reference, on the user's adapter.
//!
//! The kernel tests use the same checks over many more shapes.

pub(crate) mod attending;
pub(crate) mod bench;
pub(crate) mod hidden;
pub(crate) mod marginal;
pub(crate) mod product;
pub(crate) mod recurrent;
pub(crate) mod rounds;
pub(crate) mod sampling;
pub(crate) mod small;

use attending::{Attending, chain, tree};
use bench::noise;
use hidden::{check_compact_hidden, check_copy_hidden, check_lora, check_stage_window};
use marginal::{check_mixture, check_nucleus, check_ranking, check_siblings};
use product::{Plain, Product};
use recurrent::Recurring;
use rounds::{Drafts, Rounds, check_compact, check_draft_top, check_prompt_end, check_trace};
use sampling::{Draw, PLAIN, some_logits};
use small::{check_embed, check_head_norm, check_log_probs, check_norm};

use crate::kernels::{
    Activation, AttentionShape, Bias, CacheType, DeltaShape, Finish, MatmulForm, NormForm, Over, Place, Store,
    WeightFormat, Widths,
};
use crate::reference::sample::Settings;
use crate::{Gpu, KernelSet, Result};

/// The self-test's findings on one kernel.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KernelCheck {
    /// The kernel and its form.
    pub kernel: String,
    /// The largest error, relative to the largest value of the answer.
    pub error: f64,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether it passed.
    pub passed: bool,
}

/// Runs the kernels of `kernels` on known input; `seen` gets each check as it is done.
///
/// # Errors
/// If the device fails; a wrong kernel is a check that did not pass, not an error.
pub async fn self_test(
    gpu: &Gpu,
    kernels: KernelSet,
    full: bool,
    seen: &mut (dyn FnMut(KernelCheck) + Send),
) -> Result<()> {
    if !full {
        return quick_test(gpu, kernels, (WeightFormat::F32, CacheType::F32), seen).await;
    }
    full_test(gpu, kernels, WeightFormat::all(), seen).await
}

/// The long form, with weights of these formats.
pub(crate) async fn full_test(
    gpu: &Gpu,
    kernels: KernelSet,
    formats: impl Iterator<Item = WeightFormat> + Send,
    seen: &mut (dyn FnMut(KernelCheck) + Send),
) -> Result<()> {
    seen(check_norm(gpu, kernels, 77, 3, NormForm::Layer, Over::Rows).await?);
    seen(check_norm(gpu, kernels, 300, 2, NormForm::Rms, Over::LogitRows).await?);
    for shape in
        CacheType::ALL.into_iter().flat_map(|cache| [SHAPE, RING].map(|shape| AttentionShape { cache, ..shape }))
    {
        seen(Attending::new(gpu, kernels, shape, 4).check_rope(20, &chain(20, &[0, 1, 2])).await?);
        seen(check_compact(gpu, AttentionShape { heads: 3, kv_heads: 3, ..shape }, 2, &[0, 2, 5]).await?);
        seen(check_compact(gpu, AttentionShape { heads: 3, kv_heads: 3, ..shape }, 19, &[0, 2, 5]).await?);
    }
    seen(sampled(gpu, kernels, Settings { top_k: 40, ..PLAIN }).await?);
    seen(sampled(gpu, kernels, Settings { top_p: 0.9, ..PLAIN }).await?);
    seen(sampled(gpu, kernels, Settings { min_p: 0.1, ..PLAIN }).await?);
    seen(Rounds::new(gpu, kernels, &[5, 2, 5, 3, 5, 2], &[2, 1]).check(Drafts::Lookup, &[&[3, 5], &[1, 7]]).await?);
    seen(check_prompt_end(gpu, 5, 3, 60).await?);
    seen(check_trace(gpu, kernels, 300).await?);
    seen(check_draft_top(gpu, kernels, 301, 0.8, false).await?);
    seen(check_draft_top(gpu, kernels, 301, 0.0, true).await?);
    seen(check_nucleus(gpu, kernels, &[some_logits(1, 301), some_logits(2, 301)], 0.9, 301).await?);
    seen(check_siblings(gpu, 100, 20, 70, 32).await?);
    seen(check_mixture(gpu, kernels, 301, 32, 3).await?);
    seen(check_ranking(gpu, kernels, &[noise(70, 301).iter().map(|x| x.abs()).collect()], 10).await?);
    quick_test(gpu, kernels, (WeightFormat::F32, CacheType::F32), seen).await?;
    recurrent_test(gpu, kernels, seen).await?;
    for format in formats {
        format_test(gpu, kernels, format, seen).await?;
        let plain = MatmulForm::plain(kernels, Widths::Each, format, 0);
        seen(product(gpu, plain).check(50).await?);
        seen(Product::with_partials(gpu, plain, Plain::random(75, 70, 1)).check_partials(11).await?);
    }
    quick_test(gpu, kernels, (WeightFormat::F32, CacheType::F16), seen).await?;
    products(gpu, kernels, seen).await
}

/// The kernels that read weights of a format.
async fn format_test(
    gpu: &Gpu,
    kernels: KernelSet,
    format: WeightFormat,
    seen: &mut (dyn FnMut(KernelCheck) + Send),
) -> Result<()> {
    let product = product(gpu, MatmulForm::plain(kernels, Widths::Each, format, 0));
    seen(check_embed(gpu, format, 70, 75, &[0, 74, 13, 38]).await?);
    seen(product.check(1).await?);
    seen(product.check(5).await?);
    Ok(())
}

/// The short form for loading: every kernel once, weights of one format, a cache of one type.
pub(crate) async fn quick_test(
    gpu: &Gpu,
    kernels: KernelSet,
    (format, cache): (WeightFormat, CacheType),
    seen: &mut (dyn FnMut(KernelCheck) + Send),
) -> Result<()> {
    format_test(gpu, kernels, format, seen).await?;
    seen(check_norm(gpu, kernels, 77, 3, NormForm::Rms, Over::Rows).await?);
    for shape in [SHAPE, RING].map(|shape| AttentionShape { cache, ..shape }) {
        seen(Attending::new(gpu, kernels, shape, 6).check(20, &chain(20, &[0, 1, 2])).await?);
    }
    let capped = AttentionShape { cache, ..SHAPE };
    seen(Attending::capped(gpu, kernels, capped, 6).check(20, &chain(20, &[0, 1, 2])).await?);
    let plain = MatmulForm::plain(kernels, Widths::Fixed, WeightFormat::F32, 0);
    seen(product(gpu, MatmulForm { activation: Activation::Softcap, ..plain }).check(3).await?);
    seen(check_head_norm(gpu, [3, 2], 10, 3).await?);
    seen(check_log_probs(gpu, kernels, 301, 2).await?);
    seen(sampled(gpu, kernels, PLAIN).await?);
    seen(sampled(gpu, kernels, Settings { temperature: 0.0, ..PLAIN }).await?);
    let everything = Settings { repetition_penalty: 1.2, temperature: 0.8, top_k: 50, top_p: 0.9, min_p: 0.02 };
    seen(sampled(gpu, kernels, everything).await?);
    seen(
        Rounds::new(gpu, kernels, &[5, 2, 5, 3, 5, 2], &[2, 1]).check(Drafts::Recorded, &[&[4, 5, 6], &[1, 7]]).await?,
    );
    seen(check_copy_hidden(gpu, 36, (Place::Rows, Place::Committed), 3, (0.3, Store::Add)).await?);
    seen(check_compact_hidden(gpu, 36, 5, &[0, 2, 3, 7]).await?);
    seen(check_stage_window(gpu, 9, 5, 2).await?);
    seen(check_lora(gpu, 36, 3, 3).await?);
    Ok(())
}

/// The kernels that models with recurrent layers need beside those of [`quick_test`].
pub(crate) async fn recurrent_test(
    gpu: &Gpu,
    kernels: KernelSet,
    seen: &mut (dyn FnMut(KernelCheck) + Send),
) -> Result<()> {
    let shape = DeltaShape { key_heads: 2, value_heads: 4, key_dim: 12, value_dim: 24, taps: 4, tiled: false };
    for (rows, prompt) in [(&chain(20, &[0, 1, 2])[..], 0), (&[], 5)] {
        let batch = Recurring::new(gpu, kernels, shape, rows, prompt);
        seen(batch.check_inputs().await?);
        seen(batch.check_rule(None).await?);
    }
    seen(
        product(
            gpu,
            MatmulForm {
                activation: Activation::Silu,
                store: Store::Mul,
                ..MatmulForm::plain(kernels, Widths::Fixed, WeightFormat::F32, 0)
            },
        )
        .check(3)
        .await?,
    );
    Ok(())
}

/// Products of every width, and with everything that can follow them.
async fn products(gpu: &Gpu, set: KernelSet, seen: &mut (dyn FnMut(KernelCheck) + Send)) -> Result<()> {
    let plain = MatmulForm::plain(set, Widths::Each, WeightFormat::F32, 0);
    for rows in [2, 3, 4, 8, 13] {
        seen(product(gpu, plain).check(rows).await?);
    }
    for form in [
        MatmulForm { activation: Activation::Silu, finish: Finish::Gated, bias: Bias::Add, ..plain },
        MatmulForm { activation: Activation::Gelu, bias: Bias::Add, ..plain },
        MatmulForm { activation: Activation::GeluTanh, bias: Bias::Add, ..plain },
        MatmulForm { store: Store::Add, ..plain },
        MatmulForm { activation: Activation::Sigmoid, store: Store::Mul, ..plain },
        MatmulForm { activation: Activation::Silu, store: Store::Mul, bias: Bias::Add, ..plain },
    ] {
        seen(product(gpu, form).check(1).await?);
    }
    Ok(())
}

fn product(gpu: &Gpu, form: MatmulForm) -> Product<'_> {
    Product::new(gpu, form, Plain::random(75, 70, 1))
}

async fn sampled(gpu: &Gpu, set: KernelSet, settings: Settings) -> Result<KernelCheck> {
    let mut draw = Draw::new(settings, some_logits(1, 301));
    draw.counts[..9].fill(2);
    draw.check(gpu, set, &[1, 2, 3, 1000]).await
}

const SHAPE: AttentionShape =
    AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, context: 40, slots: 40, window: None, cache: CacheType::F32 };

/// The same shape with a window, whose slots are taken anew in the middle of a batch.
const RING: AttentionShape = AttentionShape { slots: 21, window: Some(9), ..SHAPE };

/// A fault for tests to provoke: results that differ by their last bit from width to width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "only tests provoke faults")]
pub(crate) enum InjectedFault {
    /// A fault in the tiled pipeline, where many rows have one.
    Tiled,
    /// A fault in the pipelines of each width.
    Each,
    /// A fault in these, and in the one pipeline for all widths.
    Both,
}

impl InjectedFault {
    /// The widths that it leaves sound.
    pub fn working(self) -> Option<Widths> {
        [Widths::Each, Widths::Narrow, Widths::Fixed].into_iter().find(|&widths| !self.hits(widths))
    }

    fn hits(self, widths: Widths) -> bool {
        match self {
            Self::Tiled => widths == Widths::Each,
            Self::Each => widths != Widths::Fixed,
            Self::Both => true,
        }
    }
}

/// Whether a row's bits are the same whichever rows are beside it, with these pipelines on this device.
pub(crate) async fn width_invariance(
    gpu: &Gpu,
    set: KernelSet,
    widths: Widths,
    (format, cache): (WeightFormat, CacheType),
    fault: Option<InjectedFault>,
) -> Result<bool> {
    let product = product(gpu, MatmulForm::plain(set, widths, format, 0));
    let fault = fault.is_some_and(|fault| fault.hits(widths));
    Ok(product_is_invariant(&product, 3, &[2, 3, 4, 5, 6, 7, 8, 11, 40], fault).await?
        && attention_is_invariant(&mut Attending::new(gpu, set, AttentionShape { cache, ..SHAPE }, 6), 20).await?
        && attention_is_invariant(&mut Attending::new(gpu, set, AttentionShape { cache, ..RING }, 6), 20).await?)
}

/// Whether each of the first `rows` rows has the same bits alone and in batches of `widths` rows, in other places and
/// beside others every time. `fault` spoils the last bit of the batches.
pub(crate) async fn product_is_invariant(
    product: &Product<'_>,
    rows: usize,
    widths: &[usize],
    fault: bool,
) -> Result<bool> {
    let mut alone = Vec::new();
    for row in 0..rows {
        alone.push(product.compute(&[row]).await?.concat());
    }
    for &width in widths {
        let order: Vec<usize> = (0..width).map(|i| (i * 7 + width) % rows).collect();
        let mut together = product.compute(&order).await?;
        if fault {
            let value = &mut together[0][0];
            *value = f32::from_bits(value.to_bits() ^ 1);
        }
        if order.iter().zip(together).any(|(&row, y)| bench::bits(&y) != bench::bits(&alone[row])) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a path of rows has the same bits one by one, as a chain, and scattered over a tree.
pub(crate) async fn attention_is_invariant(attending: &mut Attending<'_>, committed: u32) -> Result<bool> {
    let mut alone = Vec::new();
    for content in 0..4 {
        alone.extend(attending.step(committed + content, &chain(committed + content, &[content])).await?);
    }
    let same = |rows: &[Vec<f32>], places: &[usize]| {
        places.iter().zip(&alone).all(|(&place, alone)| bench::bits(&rows[place]) == bench::bits(alone))
    };
    let together = attending.step(committed, &chain(committed, &[0, 1, 2, 3])).await?;
    let parents = [None, None, Some(0), Some(1), Some(2), Some(4)];
    let scattered = attending.step(committed, &tree(committed, &[0, 9, 1, 8, 2, 3], &parents)).await?;
    let siblings = attending.step(committed, &tree(committed, &[9, 8, 0, 7], &[None; 4])).await?;
    Ok(same(&together, &[0, 1, 2, 3]) && same(&scattered, &[0, 2, 4, 5]) && same(&siblings, &[2]))
}
