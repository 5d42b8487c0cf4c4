//! What a training needs on the GPU, known before anything is there: from the sizes of the model, its heads and the options.
//!
//! The buffers are counted as `backbone`, `block`, `heads` and `teacher` make them; a test holds the sum against what a
//! trainer has made.

use super::graph::{TILE_ROWS, pre_stride};
use super::labels::LABEL_TOKENS;
use super::{Target, TrainOptions};
use crate::format::config::ModelConfig;
use crate::format::mtp::{Head, HeadSource, Lora, Wiring};
use crate::format::spec::BlockSpec;
use crate::model::{Sizes, attention_shape};
use crate::{Error, ErrorKind, Result};

/// Bytes that a training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// Of the model and its heads.
    pub weights: u64,
    /// Of gradients and moments.
    pub trained: u64,
    /// Of what a micro-batch leaves for the way back.
    pub activations: u64,
    /// Of the largest buffer of a micro-batch.
    pub largest: u64,
}

/// What helps against too little memory.
pub(super) const ADVICE: &str = "use a smaller `sequences` with a larger `accumulate`, or a smaller `length`";

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.trained).saturating_add(self.activations)
    }

    /// Checks that the largest buffer is not above the `most` bytes that an adapter binds, and that all of it fits into
    /// `available` bytes, where those are known: WebGPU does not tell.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], with advice.
    pub fn check(&self, most: u64, available: Option<u64>) -> Result<()> {
        let largest = self.largest;
        if largest > most {
            let message =
                format!("one buffer of a step needs {largest} bytes; the adapter binds at most {most}; {ADVICE}");
            return Err(Error::new(ErrorKind::OutOfMemory, message));
        }
        match available.filter(|&available| self.total() > available) {
            Some(available) => {
                let Self { weights, trained, activations, .. } = self;
                let message = format!(
                    "the training needs {} bytes ({weights} for the model, {trained} for gradients and moments, {activations} for a \
                     micro-batch); there are {available}; {ADVICE}",
                    self.total()
                );
                Err(Error::new(ErrorKind::OutOfMemory, message))
            }
            None => Ok(()),
        }
    }
}

/// A model with heads to be trained, by its sizes.
pub(super) struct Plan<'a> {
    pub config: &'a ModelConfig,
    pub sizes: &'a Sizes,
    pub heads: &'a [Head],
    pub lora: Option<&'a Lora>,
    pub options: &'a TrainOptions,
}

/// Buffers counted.
struct Count {
    rows: u64,
    picked: u64,
    bytes: u64,
    largest: u64,
}

impl Count {
    fn buffer(&mut self, rows: u64, width: u64) {
        let bytes = 4_u64.saturating_mul(rows.next_multiple_of(TILE_ROWS.into())).saturating_mul(width);
        self.bytes = self.bytes.saturating_add(bytes);
        self.largest = self.largest.max(bytes);
    }

    fn rows(&mut self, widths: &[u64]) {
        widths.iter().for_each(|&width| self.buffer(self.rows, width));
    }

    fn picked(&mut self, widths: &[u64]) {
        widths.iter().for_each(|&width| self.buffer(self.picked, width));
    }
}

impl Plan<'_> {
    /// Bytes of a micro-batch, and of its largest buffer.
    pub fn activations(&self) -> (u64, u64) {
        let (options, sizes) = (self.options, self.sizes);
        let rows = options.sequences as u64 * options.length as u64;
        let picked = if options.picked == 0 { rows } else { (options.picked as u64).min(rows) };
        let mut count = Count { rows, picked, bytes: 0, largest: 0 };
        let (h, inner) = (u64::from(sizes.hidden), u64::from(sizes.intermediate));
        let [qkv, out, pre] = self.widest();
        let attention = u64::from(sizes.heads) * u64::from(sizes.context);
        let spec = &self.config.spec;
        if sizes.qk_norm {
            let heads = spec.most(|block| block.attention().heads + 2 * block.attention().kv_heads);
            count.rows(&[qkv, heads as u64]);
        }
        let reduced = self.adapter_width();
        // What blocks share.
        count.rows(&[h, h, inner, inner, pre, h, out, qkv, attention, attention, reduced, reduced, 2, h]);
        self.backbone(&mut count);
        // The losses.
        let columns = u64::from(sizes.vocab_stride()).min(options.vocab_chunk as u64);
        count.picked(&[columns, 1, h, h]);
        count.rows(&[h]);
        self.base(&mut count);
        self.heads.iter().for_each(|head| self.head(head, &mut count));
        if options.detach {
            count.rows(&[h]);
        }
        (count.bytes, count.largest)
    }

    /// Values of a row that a block keeps of attention: what attention takes and gives, and where heads are normalised what
    /// the product gives.
    fn kept(&self, block: &BlockSpec) -> Vec<u64> {
        let shape = attention_shape(block.attention(), self.sizes.context);
        let projected = block.attention().qk_norm.map(|_| shape.qkv_stride());
        [shape.qkv_stride(), shape.out_stride()].into_iter().chain(projected).map(u64::from).collect()
    }

    /// Of any block of the backbone the most values of a row: queries with keys and values, attention's output, what the MLP's
    /// activation reads.
    fn widest(&self) -> [u64; 3] {
        let pre = self.config.spec.blocks.iter().map(pre_stride).max().unwrap_or(0);
        [self.sizes.qkv, self.sizes.attention_out, pre].map(u64::from)
    }

    fn gated(&self) -> bool {
        self.lora.is_some_and(|lora| lora.gated)
    }

    fn is_base(&self, head: &Head) -> bool {
        self.gated() && head.wiring == Wiring::LastLayer
    }

    /// What heads read, each once.
    fn sources(&self) -> Vec<&HeadSource> {
        let mut sources: Vec<&HeadSource> = Vec::new();
        for head in self.heads.iter().filter(|head| !self.is_base(head)) {
            if !sources.contains(&&head.source) {
                sources.push(&head.source);
            }
        }
        sources
    }

    fn total(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn top(&self) -> usize {
        let blocks = |source: &&HeadSource| match source {
            HeadSource::Layer(level) => *level,
            HeadSource::Mix { .. } => self.total() - 1,
            HeadSource::FinalNorm => self.total(),
            HeadSource::Head(_) => 0,
        };
        self.sources().iter().map(blocks).max().unwrap_or(0)
    }

    /// How many products of a block the LoRA changes.
    fn changed(&self, block: usize) -> usize {
        let name = format!("{}.", self.config.layer_name(block));
        self.lora.map_or(0, |lora| lora.parts.iter().filter(|part| part.linear.starts_with(&name)).count())
    }

    fn adapter_width(&self) -> u64 {
        let rank = self.lora.map_or(0, |lora| lora.rank);
        let width = |block| ((rank * self.changed(block)) as u64).next_multiple_of(4);
        (0..self.total()).map(width).filter(|&width| width > 0).max().unwrap_or(4)
    }

    fn base_wanted(&self) -> bool {
        self.labelled_by_base() || self.heads.iter().any(|head| self.is_base(head))
    }

    fn labelled_by_base(&self) -> bool {
        match self.options.target {
            Target::Tokens => false,
            Target::Shifted => true,
            Target::Marginal => self.heads.iter().any(|head| head.offset == 1),
        }
    }

    fn backbone(&self, count: &mut Count) {
        let h = u64::from(self.sizes.hidden);
        let [qkv, out, pre] = self.widest();
        let (sources, top, total) = (self.sources(), self.top(), self.total());
        let lowest = (0..total).find(|&block| self.options.train_lora && self.changed(block) > 0);
        let kept = |level: usize| lowest.is_some_and(|lowest| level >= lowest);
        let read = |level: usize| {
            sources.iter().any(|source| match source {
                HeadSource::Layer(layer) => *layer == level,
                HeadSource::Mix { .. } => (1..total).contains(&level),
                HeadSource::FinalNorm => level == total,
                HeadSource::Head(_) => false,
            })
        };
        let base = |level: usize| self.base_wanted() && level + 1 == total;
        count.rows(&[h, qkv, out, h, pre]);
        count.rows(&[qkv][usize::from(!self.sizes.qk_norm)..]);
        (0..=top).filter(|&level| kept(level) || read(level) || base(level)).for_each(|_| count.rows(&[h]));
        for block in (0..top).filter(|&block| kept(block)).map(|block| &self.config.spec.blocks[block]) {
            count.rows(&self.kept(block));
            count.rows(&[h, pre_stride(block).into()]);
        }
        for source in sources {
            let own = !matches!(source, HeadSource::Layer(_));
            count.rows(&[h, h][usize::from(!own)..]);
        }
        if lowest.is_some() {
            count.rows(&[h]);
        }
    }

    /// The base model's own rows, and what labels with them.
    fn base(&self, count: &mut Count) {
        let h = u64::from(self.sizes.hidden);
        let last = self.total() - 1;
        let adapted = (0..last).any(|block| self.changed(block) > 0);
        if self.base_wanted() && (adapted || self.top() < last) {
            count.rows(&[h]);
        }
        if self.labelled_by_base() {
            let block = self.config.spec.last_block();
            count.rows(&self.kept(block));
            count.picked(&[h, pre_stride(block).into(), h, h, h, h, 4]);
        }
    }

    fn head(&self, head: &Head, count: &mut Count) {
        let h = u64::from(self.sizes.hidden);
        if matches!(head.wiring, Wiring::Sequential { .. }) {
            count.rows(&[h, h]);
        }
        let layers = head.layers.len().max(1);
        for layer in 0..layers {
            let block = self.config.spec.block_of_head(layer, layers);
            count.rows(&self.kept(block));
            let mlp = [h, pre_stride(block).into()];
            if layer + 1 < layers {
                count.rows(&mlp);
                count.rows(&[h]);
            } else {
                count.picked(&mlp);
            }
        }
        count.picked(&[h, h, h, 4]);
        if self.options.target == Target::Marginal && head.offset > 1 {
            count.picked(&[2 * LABEL_TOKENS as u64, h]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_refused_with_advice() {
        let memory = Memory { weights: 10, trained: 20, activations: 30, largest: 15 };
        memory.check(15, None).unwrap();
        memory.check(15, Some(60)).unwrap();
        let error = memory.check(15, Some(59)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(
            error.to_string().contains("needs 60 bytes")
                && error.to_string().contains("there are 59; use a smaller `sequences`")
        );
        assert!(memory.check(14, None).unwrap_err().to_string().contains("binds at most 14; use a smaller"));
    }
}
