//! The search for scales with which whole numbers come nearest to weights: weighted least squares, shared by the formats.
//!
//! Which numbers a scale makes of weights is known at once, and so is which scale fits numbers best. So a few scales around the one
//! that the range of the weights implies are tried, each is replaced by the one that fits its numbers, and the best is improved in
//! turns. An error of a weight counts by the weight's size and the mean size of those around it: large weights carry more of a
//! product, and no weight is worth nothing. What inputs they meet is not known here.

use half::f16;

use super::{furthest, inverse};

/// Weights of the largest part that has a scale of its own.
const MOST: usize = 32;

/// Scales that are tried on either side of the implied one, and how far their numbers reach beyond the range's end at most.
const TRIES: i32 = 6;
const REACH: f32 = 0.9;

/// Where the least weight is tried to lie, in steps before the first number.
const BEGINS: [f32; 4] = [-0.3, 0.0, 0.3, 0.6];

/// How often the best scale is improved.
const TURNS: usize = 3;

/// No scale of f16 makes numbers other than 0 of weights as small as this.
const TINY: f32 = 1.0 / (1 << 26) as f32;

/// What f16 rounds to infinity.
const MOST_SCALE: f32 = 65_520.0;

/// Weights that share a scale, at most [`MOST`] of them, and how much an error of each counts.
pub(super) struct Part<'w> {
    weights: &'w [f32],
    counts: [f32; MOST],
}

/// A scale and what is added: a weight is `scale * number + offset`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    pub scale: f32,
    pub offset: f32,
}

impl<'w> Part<'w> {
    pub fn new(weights: &'w [f32]) -> Self {
        let mean = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32;
        let mean = mean.sqrt();
        let mut counts = [0.0; MOST];
        for (count, weight) in counts.iter_mut().zip(weights) {
            *count = mean + weight.abs();
        }
        Self { weights, counts }
    }

    fn counted(&self) -> impl Iterator<Item = (f32, f32)> {
        self.weights.iter().copied().zip(self.counts)
    }

    /// The whole numbers from `low` to `high` that lie nearest to the weights on a line.
    pub fn numbers(&self, line: Line, low: i32, high: i32) -> impl Iterator<Item = i32> {
        let inverse = inverse(line.scale);
        self.weights.iter().map(move |w| nearest((w - line.offset) * inverse, low as f32, high as f32) as i32)
    }

    /// What the errors count together where weights become the nearest numbers from `low` to `high` on a line.
    pub fn error(&self, line: Line, low: i32, high: i32) -> f32 {
        let inverse = inverse(line.scale);
        let error = |(w, count): (f32, f32)| {
            let number = nearest((w - line.offset) * inverse, low as f32, high as f32);
            let off = line.scale * number + line.offset - w;
            count * off * off
        };
        self.counted().map(error).sum()
    }

    /// The scale of numbers from `low` to `high`.
    pub fn scale(&self, low: i32, high: i32) -> f32 {
        let furthest = furthest(self.weights);
        if furthest.abs() < TINY {
            return 0.0;
        }
        let (low, high) = (low as f32, high as f32);
        let mut best = Fit::default();
        for end in [low, high] {
            for offset in offsets() {
                best = best.or(self.fit((end + offset) / furthest, low, high));
            }
        }
        for _ in 0..TURNS {
            best = best.or(self.fit(inverse(best.scale), low, high));
        }
        best.scale
    }

    /// The scale that fits best the numbers which lie nearest to the weights times `inverse`.
    fn fit(&self, inverse: f32, low: f32, high: f32) -> Fit {
        let (mut product, mut square) = (0.0, 0.0);
        for (weight, count) in self.counted() {
            let number = nearest(weight * inverse, low, high);
            product += count * weight * number;
            square += count * number * number;
        }
        let scale = product * super::inverse(square);
        // Nothing is gained by a scale that a file cannot hold.
        if scale.abs() < MOST_SCALE { Fit { gain: product * scale, scale } } else { Fit::default() }
    }

    /// The line for numbers from 0 to `most`; its offset is at most 0 where `below` says so.
    pub fn line(&self, most: i32, below: bool) -> Line {
        let (low, high) = super::range(self.weights);
        let low = if below { low.min(0.0) } else { low };
        if high - low < TINY {
            return Line { scale: 0.0, offset: if below { low } else { low / 2.0 + high / 2.0 } };
        }
        let most = most as f32;
        let (mut best, mut least) = (Line::default(), f32::INFINITY);
        let mut consider = |inverse: f32, offset: f32, best: &mut Line| {
            let (line, error) = self.fit_line(inverse, offset, most, below);
            if error < least {
                (*best, least) = (line, error);
            }
        };
        for end in offsets() {
            let inverse = (most + end) / (high - low);
            // The range may begin at the first number, or a part of a step beside it.
            for begin in BEGINS {
                consider(inverse, low + begin / inverse, &mut best);
            }
        }
        for _ in 0..TURNS {
            let Line { scale, offset } = best;
            consider(inverse(scale), offset, &mut best);
        }
        best
    }

    /// The line that fits best the numbers which lie nearest to the weights less `offset`, times `inverse`; and its error, less
    /// what is the same for all lines.
    fn fit_line(&self, inverse: f32, offset: f32, most: f32, below: bool) -> (Line, f32) {
        let [mut all, mut weights, mut numbers, mut squares, mut products] = [0.0_f32; 5];
        for (weight, count) in self.counted() {
            let number = nearest((weight - offset) * inverse, 0.0, most);
            all += count;
            weights += count * weight;
            numbers += count * number;
            squares += count * number * number;
            products += count * number * weight;
        }
        let determinant = all * squares - numbers * numbers;
        let mut line = Line { scale: 0.0, offset: weights / all };
        if determinant > 0.0 {
            line.scale = (all * products - numbers * weights) / determinant;
            line.offset = (squares * weights - numbers * products) / determinant;
        }
        if below && line.offset > 0.0 {
            line = Line { scale: if squares > 0.0 { products / squares } else { 0.0 }, offset: 0.0 };
        }
        let Line { scale, offset } = line;
        let quadratic = scale * scale * squares + 2.0 * scale * offset * numbers + offset * offset * all;
        (line, quadratic - 2.0 * (scale * products + offset * weights))
    }
}

/// A scale, and by how much it makes the sum of squared errors smaller than that of zeros.
#[derive(Clone, Copy, Default)]
struct Fit {
    gain: f32,
    scale: f32,
}

impl Fit {
    fn or(self, other: Self) -> Self {
        if other.gain > self.gain { other } else { self }
    }
}

/// How far beyond an end of the numbers the outermost weight is laid, for each try.
fn offsets() -> impl Iterator<Item = f32> {
    (-TRIES..=TRIES).map(|step| step as f32 * (REACH / TRIES as f32))
}

/// The nearest whole number between two. Adding and taking away 1.5 * 2^23 rounds what is smaller than 2^22, and is quick.
fn nearest(x: f32, low: f32, high: f32) -> f32 {
    const ROUNDING: f32 = 12_582_912.0;
    (x.clamp(low, high) + ROUNDING) - ROUNDING
}

/// A number as f16 keeps it.
fn rounded(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Blocks of parts whose scales are whole numbers times a scale that they share.
pub(super) struct Shape {
    /// Weights of a part.
    pub part: usize,
    /// The numbers of weights.
    pub numbers: [i32; 2],
    /// The numbers of scales.
    pub scales: [i32; 2],
}

/// A block's scale, the number of each part's, and the numbers of the weights.
pub(super) struct Scaled {
    pub scale: f32,
    pub parts: Vec<i32>,
    pub numbers: Vec<i32>,
}

impl Shape {
    /// Scales of parts without offsets.
    pub fn scaled(&self, weights: &[f32]) -> Scaled {
        let &Self { numbers: [low, high], scales: [least, most], .. } = self;
        let parts: Vec<Part<'_>> = weights.chunks_exact(self.part).map(Part::new).collect();
        let wanted: Vec<f32> = parts.iter().map(|part| part.scale(low, high)).collect();
        let scale = rounded(furthest(&wanted) / least as f32);
        let mut found = Scaled { scale, parts: Vec::new(), numbers: Vec::with_capacity(weights.len()) };
        for (part, wanted) in parts.iter().zip(wanted) {
            let about = (wanted * inverse(scale)).round() as i32;
            let tries = (about - 1..=about + 1).map(|number| number.clamp(least, most));
            let line = |number: i32| Line { scale: scale * number as f32, offset: 0.0 };
            let number = least_by(tries, |&number| part.error(line(number), low, high)).unwrap_or(0);
            found.parts.push(number);
            found.numbers.extend(part.numbers(line(number), low, high));
        }
        found
    }
}

/// Blocks of parts whose scales and minima are whole numbers times a scale of their kind.
pub(super) struct LineShape {
    /// Weights of a part.
    pub part: usize,
    /// The largest number of a weight.
    pub numbers: u8,
    /// The largest number of a scale or minimum.
    pub scales: u8,
}

/// A block's scale and scale of minima, the numbers of each part's, and the numbers of the weights.
pub(super) struct Lines {
    pub scale: f32,
    pub minimum: f32,
    pub parts: Vec<[u8; 2]>,
    pub numbers: Vec<u8>,
}

impl LineShape {
    /// Scales and minima of parts.
    pub fn lines(&self, weights: &[f32]) -> Lines {
        let (highest, most) = (i32::from(self.numbers), i32::from(self.scales));
        let parts: Vec<Part<'_>> = weights.chunks_exact(self.part).map(Part::new).collect();
        let wanted: Vec<Line> = parts.iter().map(|part| part.line(highest, true)).collect();
        let largest = |of: fn(&Line) -> f32| wanted.iter().map(of).fold(0.0, f32::max);
        let scale = rounded(largest(|line| line.scale) / most as f32);
        let minimum = rounded(largest(|line| -line.offset) / most as f32);
        let line = |[s, m]: [i32; 2]| Line { scale: scale * s as f32, offset: -(minimum * m as f32) };
        let mut found = Lines { scale, minimum, parts: Vec::new(), numbers: Vec::with_capacity(weights.len()) };
        for (part, wanted) in parts.iter().zip(wanted) {
            let about = [wanted.scale * inverse(scale), -wanted.offset * inverse(minimum)].map(|x| x.round() as i32);
            let around = |at: usize| (about[at] - 1..=about[at] + 1).map(|number: i32| number.clamp(0, most));
            let tries = around(0).flat_map(|s| around(1).map(move |m| [s, m]));
            let chosen = least_by(tries, |&pair| part.error(line(pair), 0, highest)).unwrap_or_default();
            found.parts.push(chosen.map(|number| number as u8));
            found.numbers.extend(part.numbers(line(chosen), 0, highest).map(|number| number as u8));
        }
        found
    }
}

/// The item of the least cost, of equal ones the first.
fn least_by<T>(items: impl Iterator<Item = T>, cost: impl Fn(&T) -> f32) -> Option<T> {
    items.map(|item| (cost(&item), item)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, item)| item)
}
