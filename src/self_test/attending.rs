//! Attention over a cache that grows step by step, on the GPU and by the reference.

use half::f16;

use super::KernelCheck;
use super::bench::{compare, noise, read, run, wide};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::{
    AttentionIo, AttentionShape, CacheType, Extent, KernelSet, MAX_CHUNK_ROWS, Op, RopeIo, Row, Scoring, State,
    attention_scores, attention_softmax, attention_values, rope_cache,
};
use crate::reference;

/// A row of a step: its content (which query, key and value), its position, and its ancestors in the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub content: u32,
    pub position: u32,
    pub mask: u32,
}

/// The rows of a tree after `committed` tokens: `parents[i]` is the row that row i follows, an earlier one, or none.
/// `contents[i]` is what row i holds.
pub(crate) fn tree(committed: u32, contents: &[u32], parents: &[Option<usize>]) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (i, (&content, parent)) in contents.iter().zip(parents).enumerate() {
        let (position, ancestors) = parent.map_or((committed, 0), |p| (tokens[p].position + 1, tokens[p].mask));
        tokens.push(Token { content, position, mask: ancestors | 1 << i });
    }
    tokens
}

/// A chain: each row follows the one before.
pub(crate) fn chain(committed: u32, contents: &[u32]) -> Vec<Token> {
    let parents: Vec<_> = (0..contents.len()).map(|i: usize| i.checked_sub(1)).collect();
    tree(committed, contents, &parents)
}

/// The numbers that a cache keeps of others.
pub(super) fn rounded(numbers: Vec<f32>, cache: CacheType) -> Vec<f32> {
    match cache {
        CacheType::F32 => numbers,
        CacheType::F16 => numbers.into_iter().map(reference::rope_cache::half).collect(),
    }
}

/// A buffer of these numbers as a cache keeps them.
pub(super) fn stored(gpu: &Gpu, label: &str, numbers: &[f32], cache: CacheType) -> Buffer {
    match cache {
        CacheType::F32 => gpu.storage_with(label, numbers),
        CacheType::F16 => {
            gpu.storage_with(label, &numbers.iter().map(|&x| f16::from_f32(x).to_bits()).collect::<Vec<u16>>())
        }
    }
}

/// The first `count` numbers that a cache keeps in a buffer.
pub(super) async fn fetched(gpu: &Gpu, buffer: &Buffer, count: usize, cache: CacheType) -> Result<Vec<f32>> {
    match cache {
        CacheType::F32 => read(gpu, buffer, count).await,
        CacheType::F16 => {
            Ok(read::<u16>(gpu, buffer, count).await?.into_iter().map(|x| f16::from_bits(x).to_f32()).collect())
        }
    }
}

/// One layer's queries, keys and values in a cache.
pub(crate) struct Attending<'a> {
    gpu: &'a Gpu,
    set: KernelSet,
    shape: AttentionShape,
    rotary_dim: usize,
    scoring: Scoring,
    /// `[context, rotary_dim / 2]` of (cos, sin).
    rotation: Vec<[f32; 2]>,
    /// The cache's content by the reference: `[kv_heads, slots, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    buffers: Buffers,
    rope: Op,
    attend: [Op; 3],
}

struct Buffers {
    state: Buffer,
    rows: Buffer,
    qkv: Buffer,
    keys: Buffer,
    values: Buffer,
    out: Buffer,
}

impl<'a> Attending<'a> {
    /// A cache full of random keys and values; steps overwrite their slots.
    pub fn new(gpu: &'a Gpu, set: KernelSet, shape: AttentionShape, rotary_dim: u32) -> Self {
        Self::build(gpu, set, shape, rotary_dim, None)
    }

    /// The same with a soft cap of the scores, which some of them come near.
    pub fn capped(gpu: &'a Gpu, set: KernelSet, shape: AttentionShape, rotary_dim: u32) -> Self {
        Self::build(gpu, set, shape, rotary_dim, Some(1.5))
    }

    fn build(gpu: &'a Gpu, set: KernelSet, shape: AttentionShape, rotary_dim: u32, softcap: Option<f32>) -> Self {
        let (context, slots, rows) = (shape.context as usize, shape.slots as usize, MAX_CHUNK_ROWS as u64);
        let cache = (shape.kv_heads * shape.slots * shape.head_dim) as usize;
        let [keys, values] = [11, 12].map(|seed| rounded(noise(seed, cache), shape.cache));
        let packed_keys = reference::rope_cache::pack_keys(&keys, slots, shape.head_dim as usize);
        let angle =
            |i: usize| (i / (rotary_dim as usize / 2)) as f64 * 0.7f64.powi((i % (rotary_dim as usize / 2)) as i32);
        let rotation: Vec<[f32; 2]> =
            (0..context * rotary_dim as usize / 2).map(|i| [angle(i).cos() as f32, angle(i).sin() as f32]).collect();
        let buffers = Buffers {
            state: gpu.storage_with("state", &[State::default()]),
            rows: gpu.storage("rows", rows * size_of::<Row>() as u64),
            qkv: gpu.storage("qkv", rows * 4 * u64::from(shape.qkv_stride())),
            keys: stored(gpu, "keys", &packed_keys, shape.cache),
            values: stored(gpu, "values", &values, shape.cache),
            out: gpu.storage("out", rows * 4 * u64::from(shape.out_stride())),
        };
        // Queries of this size make some keys matter much more than others.
        let scoring = Scoring { scale: 3.0 / (shape.head_dim as f32).sqrt(), softcap };
        let scores = gpu.storage("scores", rows * 4 * u64::from(shape.heads * shape.context));
        let sums = gpu.storage("sums", rows * 4 * u64::from(shape.heads));
        let Buffers { state, rows, qkv, keys: k, values: v, out } = &buffers;
        let table = gpu.storage_with("rotation", &rotation);
        let rope =
            rope_cache(gpu, shape, rotary_dim, RopeIo { state, rows, qkv, rotation: &table, keys: k, values: v });
        let io = AttentionIo { state, rows, qkv, keys: k, values: v, scores: &scores, inverse_sums: &sums, out };
        let attend = [
            attention_scores(gpu, shape, scoring, io),
            attention_softmax(gpu, set, shape, io),
            attention_values(gpu, set, shape, io),
        ];
        Self {
            gpu,
            set,
            shape,
            rotary_dim: rotary_dim as usize,
            scoring,
            rotation,
            keys,
            values,
            buffers,
            rope,
            attend,
        }
    }

    /// Queries, keys and values of a content: `[heads + 2 * kv_heads, head_dim]`.
    fn content(&self, content: u32) -> Vec<f32> {
        noise(100 + content, self.shape.qkv_stride() as usize)
    }

    /// The rows' outputs, `[heads, head_dim]` each, after writing their keys and values to slots from `committed`.
    pub async fn step(&mut self, committed: u32, tokens: &[Token]) -> Result<Vec<Vec<f32>>> {
        self.run(committed, tokens, true);
        self.remember(committed, tokens);
        self.take_rounding().await?;
        let out = read::<f32>(self.gpu, &self.buffers.out, tokens.len() * self.shape.out_stride() as usize).await?;
        Ok(out.chunks_exact(self.shape.out_stride() as usize).map(<[f32]>::to_vec).collect())
    }

    fn run(&self, committed: u32, tokens: &[Token], attend: bool) {
        let (gpu, num_rows) = (self.gpu, tokens.len() as u32);
        let rows: Vec<Row> =
            tokens.iter().map(|t| Row { position: t.position, mask: t.mask, ..Row::default() }).collect();
        let qkv: Vec<f32> = tokens.iter().flat_map(|t| self.content(t.content)).collect();
        gpu.write(&self.buffers.state, 0, &[State { committed, num_rows, ..State::default() }]);
        gpu.write(&self.buffers.rows, 0, &rows);
        gpu.write(&self.buffers.qkv, 0, &qkv);
        let mut ops = vec![&self.rope];
        ops.extend(self.attend.iter().filter(|_| attend));
        let keys = 1 + tokens.iter().map(|t| t.position).max().unwrap_or(0);
        run(gpu, &ops, Extent { rows: num_rows, logit_rows: num_rows, keys });
    }

    /// The content with its queries and keys rotated.
    fn rotated(&self, token: &Token) -> Vec<f32> {
        let (head_dim, half) = (self.shape.head_dim as usize, self.rotary_dim / 2);
        let rotation = &self.rotation[token.position as usize * half..][..half];
        let mut content = self.content(token.content);
        let turning = (self.shape.heads + self.shape.kv_heads) as usize;
        content.chunks_exact_mut(head_dim).take(turning).for_each(|head| reference::rope_cache::rotate(head, rotation));
        content
    }

    /// Writes the rows to the reference's cache.
    fn remember(&mut self, committed: u32, tokens: &[Token]) {
        let AttentionShape { heads, kv_heads, head_dim, slots, cache, .. } = self.shape;
        let [heads, kv_heads, head_dim, slots] = [heads, kv_heads, head_dim, slots].map(|n| n as usize);
        for (i, token) in tokens.iter().enumerate() {
            let content = rounded(self.rotated(token), cache);
            for head in 0..kv_heads {
                let slot = (head * slots + (committed as usize + i) % slots) * head_dim;
                let (key, value) = (heads + head, heads + kv_heads + head);
                self.keys[slot..][..head_dim].copy_from_slice(&content[key * head_dim..][..head_dim]);
                self.values[slot..][..head_dim].copy_from_slice(&content[value * head_dim..][..head_dim]);
            }
        }
    }

    /// WGSL lets drivers choose between the two halves next to a number: what was chosen is what attention has to work with.
    async fn take_rounding(&mut self) -> Result<()> {
        let AttentionShape { slots, head_dim, cache, .. } = self.shape;
        if cache == CacheType::F16 {
            let keys = fetched(self.gpu, &self.buffers.keys, self.keys.len(), cache).await?;
            self.keys = reference::rope_cache::unpack_keys(&keys, slots as usize, head_dim as usize);
            self.values = fetched(self.gpu, &self.buffers.values, self.values.len(), cache).await?;
        }
        Ok(())
    }

    /// The rows' outputs by the reference, once [`Self::step`] has run.
    pub fn expected(&self, committed: u32, tokens: &[Token]) -> Vec<f64> {
        tokens.iter().flat_map(|token| self.expected_row(committed, token)).collect()
    }

    fn expected_row(&self, committed: u32, token: &Token) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim, slots: count, window, .. } = self.shape;
        let places = reference::attention::visible_slots(token.position, token.mask, committed);
        let places = reference::attention::within(&places, window).iter();
        let slots: Vec<usize> = places.map(|place| place % count as usize).collect();
        let content = self.rotated(token);
        let Scoring { scale, softcap } = self.scoring;
        let score = |product: f64| {
            let scaled = f64::from(scale) * product;
            softcap.map_or(scaled, |cap| reference::attention::softcapped(scaled, cap.into()))
        };
        let head = |head: u32| {
            let query = &content[(head * head_dim) as usize..][..head_dim as usize];
            let cache = (head / (heads / kv_heads) * count * head_dim) as usize;
            reference::attention::attention(query, &self.keys[cache..], &self.values[cache..], &slots, score)
        };
        (0..heads).flat_map(head).collect()
    }

    /// Compares a step with the reference.
    pub async fn check(&mut self, committed: u32, tokens: &[Token]) -> Result<KernelCheck> {
        let got = self.step(committed, tokens).await?.concat();
        let label = format!("{} {}, {} rows at {committed}", self.set, self.shape, tokens.len());
        Ok(compare("attention", label, &got, &self.expected(committed, tokens)))
    }

    /// Compares the queries and the whole cache after `rope_cache` with the reference.
    pub async fn check_rope(&mut self, committed: u32, tokens: &[Token]) -> Result<KernelCheck> {
        self.run(committed, tokens, false);
        self.remember(committed, tokens);
        let (gpu, stride) = (self.gpu, self.shape.qkv_stride() as usize);
        let queries = (self.shape.heads * self.shape.head_dim) as usize;
        let mut got = Vec::new();
        for row in read::<f32>(gpu, &self.buffers.qkv, tokens.len() * stride).await?.chunks_exact(stride) {
            got.extend_from_slice(&row[..queries]);
        }
        got.extend(fetched(gpu, &self.buffers.keys, self.keys.len(), self.shape.cache).await?);
        got.extend(fetched(gpu, &self.buffers.values, self.values.len(), self.shape.cache).await?);
        let mut want: Vec<f32> = tokens.iter().flat_map(|t| self.rotated(t)[..queries].to_vec()).collect();
        want.extend(reference::rope_cache::pack_keys(
            &self.keys,
            self.shape.slots as usize,
            self.shape.head_dim as usize,
        ));
        want.extend(&self.values);
        let label = format!("{} rotating {}, {} rows at {committed}", self.shape, self.rotary_dim, tokens.len());
        let kernel = if self.shape.cache == CacheType::F16 { "rope_cache in halves" } else { "rope_cache" };
        Ok(compare(kernel, label, &got, &wide(&want)))
    }
}
