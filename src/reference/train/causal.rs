//! Causal attention within sequences: row r is position `r % length` of sequence `r / length`.

use crate::reference::attention;

/// Sizes of the sequences and their heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequences {
    pub sequences: usize,
    pub length: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions that a position sees, itself included; `None`: all before it.
    pub window: Option<usize>,
}

/// Where heads lie in the rows of a buffer: the values of a row, and where its first head begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub stride: usize,
    pub first: usize,
}

impl Sequences {
    pub fn rows(self) -> usize {
        self.sequences * self.length
    }

    pub fn scores(self) -> usize {
        self.sequences * self.heads * self.length * self.length
    }

    /// Queries, keys and values in a row of all three.
    pub fn in_qkv(self) -> [Place; 3] {
        let stride = (self.heads + 2 * self.kv_heads) * self.head_dim;
        [0, self.heads, self.heads + self.kv_heads].map(|head| Place { stride, first: head * self.head_dim })
    }

    /// The heads of queries in rows of nothing else.
    pub fn in_out(self) -> Place {
        Place { stride: self.heads * self.head_dim, first: 0 }
    }

    fn kv(self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// Where the head of a position begins.
    fn at(self, place: Place, (sequence, position): (usize, usize), head: usize) -> usize {
        (sequence * self.length + position) * place.stride + place.first + head * self.head_dim
    }

    /// The first position that position `i` sees.
    pub fn first_seen(self, i: usize) -> usize {
        self.window.map_or(0, |window| (i + 1).saturating_sub(window))
    }

    /// Whether a score lies where a position sees another.
    pub fn is_seen(self, score: usize) -> bool {
        let (i, j) = (score / self.length % self.length, score % self.length);
        (self.first_seen(i)..=i).contains(&j)
    }

    /// `(sequence, head, i, j)` of every score where i sees j, and where it lies.
    fn each_score(self) -> impl Iterator<Item = ([usize; 4], usize)> {
        let Self { sequences, length, heads, .. } = self;
        let all = (0..sequences).flat_map(move |s| (0..heads).map(move |h| (s, h)));
        let pairs = all
            .flat_map(move |(s, h)| (0..length).flat_map(move |i| (self.first_seen(i)..=i).map(move |j| [s, h, i, j])));
        pairs.map(move |[s, h, i, j]| ([s, h, i, j], ((s * heads + h) * length + i) * length + j))
    }

    /// Every row of scores of positions that are seen: where it begins, and how many there are.
    fn each_row(self) -> impl Iterator<Item = (usize, usize)> {
        let length = self.length;
        let row = move |row: usize| (row * length + self.first_seen(row % length), row % length);
        let rows = (0..self.sequences * self.heads * length).map(row);
        rows.map(move |(first, i)| (first, i + 1 - self.first_seen(i)))
    }
}

/// Rotates queries and keys by their positions, dimension i with i + half, or back. `table` is `[length, half]` of
/// (cos, sin).
pub(crate) fn rope_rows(shape: Sequences, half: usize, back: bool, qkv: &mut [f64], table: &[[f64; 2]]) {
    let place = shape.in_qkv()[0];
    for row in 0..shape.rows() {
        let position = row % shape.length;
        for head in 0..shape.heads + shape.kv_heads {
            let first = shape.at(place, (row / shape.length, position), head);
            for i in 0..half {
                let [cos, sin] = table[position * half + i];
                let sin = if back { -sin } else { sin };
                let [a, b] = [qkv[first + i], qkv[first + half + i]];
                qkv[first + i] = a * cos - b * sin;
                qkv[first + half + i] = b * cos + a * sin;
            }
        }
    }
}

/// `m[s, h, i, j] = scale * a[i, h] . b[j, kv(h)]` for the j that i sees.
pub(crate) fn scores(shape: Sequences, scale: f64, a: (&[f64], Place), b: (&[f64], Place), m: &mut [f64]) {
    for ([s, h, i, j], at) in shape.each_score() {
        let (a_at, b_at) = (shape.at(a.1, (s, i), h), shape.at(b.1, (s, j), shape.kv(h)));
        m[at] = scale * (0..shape.head_dim).map(|d| a.0[a_at + d] * b.0[b_at + d]).sum::<f64>();
    }
}

/// The softmax of every row, in place.
pub(crate) fn softmax(shape: Sequences, m: &mut [f64]) {
    for (first, count) in shape.each_row() {
        let row = &mut m[first..first + count];
        let p = attention::softmax(row);
        row.copy_from_slice(&p);
    }
}

/// The gradient of scores from that of their softmax `p`, in place.
pub(crate) fn softmax_inputs(shape: Sequences, p: &[f64], dm: &mut [f64]) {
    for (first, count) in shape.each_row() {
        let mean = super::dot(&p[first..first + count], &dm[first..first + count]);
        (first..first + count).for_each(|at| dm[at] = p[at] * (dm[at] - mean));
    }
}

/// `out[i, h] = scale * sum over the j that i sees of m[s, h, i, j] b[j, kv(h)]`.
pub(crate) fn gather(shape: Sequences, scale: f64, m: &[f64], b: (&[f64], Place), out: (&mut [f64], Place)) {
    let place = out.1;
    for row in 0..shape.rows() {
        let first = row * place.stride + place.first;
        out.0[first..first + shape.heads * shape.head_dim].fill(0.0);
    }
    for ([s, h, i, j], at) in shape.each_score() {
        let (out_at, b_at) = (shape.at(place, (s, i), h), shape.at(b.1, (s, j), shape.kv(h)));
        (0..shape.head_dim).for_each(|d| out.0[out_at + d] += scale * m[at] * b.0[b_at + d]);
    }
}

/// `out[j, kv] = scale * sum over the heads h of kv and the i that see j of m[s, h, i, j] a[i, h]`.
pub(crate) fn scatter(shape: Sequences, scale: f64, m: &[f64], a: (&[f64], Place), out: (&mut [f64], Place)) {
    let place = out.1;
    for row in 0..shape.rows() {
        let first = row * place.stride + place.first;
        out.0[first..first + shape.kv_heads * shape.head_dim].fill(0.0);
    }
    for ([s, h, i, j], at) in shape.each_score() {
        let (a_at, out_at) = (shape.at(a.1, (s, i), h), shape.at(place, (s, j), shape.kv(h)));
        (0..shape.head_dim).for_each(|d| out.0[out_at + d] += scale * m[at] * a.0[a_at + d]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, dot, numbers};

    const SHAPE: Sequences = Sequences { sequences: 2, length: 5, heads: 4, kv_heads: 2, head_dim: 8, window: None };
    const HALF: usize = 3;
    const SCALE: f64 = 0.35;

    fn table() -> Vec<[f64; 2]> {
        let angle = |i: usize| 0.3 * (i / HALF) as f64 + 0.1 * (i % HALF) as f64;
        (0..SHAPE.length * HALF).map(|i| [angle(i).cos(), angle(i).sin()]).collect()
    }

    /// Rotated queries, keys and values; probabilities; what attention gives.
    fn forward(shape: Sequences, qkv: &[f64]) -> [Vec<f64>; 3] {
        let mut turned = qkv.to_vec();
        rope_rows(shape, HALF, false, &mut turned, &table());
        let [q, k, v] = shape.in_qkv();
        let mut p = vec![0.0; shape.scores()];
        scores(shape, SCALE, (&turned, q), (&turned, k), &mut p);
        softmax(shape, &mut p);
        let mut out = vec![0.0; shape.rows() * shape.in_out().stride];
        gather(shape, 1.0, &p, (&turned, v), (&mut out, shape.in_out()));
        [turned, p, out]
    }

    #[test]
    fn five_products_and_a_turn_back_are_the_gradient_of_attention() {
        for window in [None, Some(1), Some(3)] {
            gradient_of_attention(Sequences { window, ..SHAPE });
        }
    }

    fn gradient_of_attention(shape: Sequences) {
        let [q, k, v] = shape.in_qkv();
        let out = shape.in_out();
        let (qkv, dout) = (numbers(1, shape.rows() * q.stride), numbers(2, shape.rows() * out.stride));
        let [turned, p, _] = forward(shape, &qkv);
        let mut dqkv = vec![0.0; qkv.len()];
        let mut dm = vec![0.0; shape.scores()];
        scores(shape, 1.0, (&dout, out), (&turned, v), &mut dm);
        softmax_inputs(shape, &p, &mut dm);
        gather(shape, SCALE, &dm, (&turned, k), (&mut dqkv, q));
        scatter(shape, SCALE, &dm, (&turned, q), (&mut dqkv, k));
        scatter(shape, 1.0, &p, (&dout, out), (&mut dqkv, v));
        rope_rows(shape, HALF, true, &mut dqkv, &table());
        assert_gradient(|qkv| dot(&dout, &forward(shape, qkv)[2]), &qkv, &dqkv);
    }

    #[test]
    fn attention_is_that_of_one_row() {
        let [q, k, v] = SHAPE.in_qkv();
        let qkv = numbers(3, SHAPE.rows() * q.stride);
        let [turned, _, out] = forward(SHAPE, &qkv);
        let head = |place: Place, row: usize, h: usize| -> Vec<f32> {
            let at = row * place.stride + place.first + h * SHAPE.head_dim;
            turned[at..at + SHAPE.head_dim].iter().map(|&x| x as f32).collect()
        };
        let cache = |place: Place, h: usize| -> Vec<f32> {
            (0..SHAPE.length).flat_map(|j| head(place, SHAPE.length + j, h / 2)).collect()
        };
        // The last position of the second sequence.
        let row = 2 * SHAPE.length - 1;
        let slots: Vec<usize> = (0..SHAPE.length).collect();
        for h in 0..SHAPE.heads {
            let want =
                attention::attention(&head(q, row, h), &cache(k, h), &cache(v, h), &slots, |product| SCALE * product);
            for (d, want) in want.iter().enumerate() {
                let got = out[row * SHAPE.in_out().stride + h * SHAPE.head_dim + d];
                assert!((got - want).abs() < 1e-6, "{got} is not {want}");
            }
        }
    }
}
