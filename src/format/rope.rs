//! Rotary position embeddings: the frequencies a configuration asks for.
//!
//! Frequencies only; nothing here rotates a vector.

use std::f64::consts::PI;

use serde_json::Value;

use super::fields::Fields;
use crate::error::Result;

/// The rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How many of a head's first elements are rotated: even, at most `head_dim`; 0 for none.
    pub rotary_dim: usize,
    /// How the frequencies are stretched, for models trained on to a longer context.
    pub scaling: Option<Llama3Scaling>,
    /// Numbers that the frequencies are divided by, one a pair, where a file states them itself.
    pub divisors: Option<Vec<f32>>,
    /// The factor of what is rotated.
    pub amplitude: f64,
    /// The longest text that the divisors are for, in tokens, where longer ones would need others.
    pub longest: Option<usize>,
}

/// The `llama3` rule: long wavelengths are divided by `factor`, short ones kept, those between interpolated.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// The number that low frequencies are divided by.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are long.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are short.
    pub high_freq_factor: f64,
    /// The context length of the first training, in tokens.
    pub original_max_position_embeddings: usize,
}

impl Rope {
    /// The rope of a block that rotates nothing, so that its attention does not feel positions.
    pub fn none() -> Self {
        Self { theta: 1.0, rotary_dim: 0, scaling: None, divisors: None, amplitude: 1.0, longest: None }
    }

    /// The angle per position, in radians, of each rotated pair: `rotary_dim / 2` values, element `i` belonging to the
    /// pair (`i`, `i + rotary_dim / 2`).
    ///
    /// The rules of Hugging Face transformers' `compute_default_rope_parameters` and `_compute_llama3_parameters`, in
    /// double precision.
    pub fn inv_freq(&self) -> Vec<f64> {
        let plain = |pair: usize| self.theta.powf(-((2 * pair) as f64) / self.rotary_dim as f64);
        let scaled = |freq| self.scaling.as_ref().map_or(freq, |scaling| scaling.apply(freq));
        let mut freqs: Vec<f64> = (0..self.rotary_dim / 2).map(plain).map(scaled).collect();
        for (freq, divisor) in freqs.iter_mut().zip(self.divisors.iter().flatten()) {
            *freq /= f64::from(*divisor);
        }
        freqs
    }

    /// Reads the older keys (`rope_scaling`, and those in `keys`) and the newer `rope_parameters`.
    pub(super) fn parse(fields: &Fields<'_>, keys: &RopeKeys, head_dim: usize) -> Result<Self> {
        let scaling = fields.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
        let parameters = match (keys.layer_type, scaling) {
            (Some(kind), _) => fields.object("rope_parameters")?.and_then(|all| all.get(kind)?.as_object()),
            (None, Some(scaling)) => Some(scaling),
            (None, None) => fields.object("rope_parameters")?,
        };
        let empty = serde_json::Map::new();
        let inner = Fields::new("config.json: rope parameters", parameters.unwrap_or(&empty));
        if let Some((layer_type, _)) = inner.values().find(|(_, value)| value.is_object()) {
            return Err(inner.unsupported(format!("a rope per layer type (`{layer_type}`) is not supported")));
        }
        let theta = inner.positive("rope_theta")?.or(agreed(fields, keys.theta)?).unwrap_or(keys.default_theta);
        if theta < 1.0 {
            return Err(
                fields.error(format!("the rope's base (`{}`): expected at least 1, got {theta}", keys.theta[0]))
            );
        }
        let factor = inner.positive("partial_rotary_factor")?.or(agreed(fields, keys.factor)?);
        let rotary_dim = rotary_dim(fields, keys, head_dim, factor.unwrap_or(keys.default_factor))?;
        let plain = Self { theta, rotary_dim, ..Self::none() };
        match inner.text("rope_type")?.or(inner.text("type")?).unwrap_or("default") {
            "default" => Ok(plain),
            "llama3" => Ok(Self { scaling: Some(Llama3Scaling::parse(fields, &inner)?), ..plain }),
            // As Phi-3's first files call it.
            "longrope" | "su" => plain.with_short_factors(fields, &inner),
            other => {
                let supported = "default, llama3 and longrope are";
                Err(inner.unsupported(format!("rope type \"{other}\" is not supported; {supported}")))
            }
        }
    }

    /// The `longrope` rule for texts that are not longer than those of the first training: longer ones are rotated by other
    /// factors, from their first token on.
    fn with_short_factors(self, fields: &Fields<'_>, inner: &Fields<'_>) -> Result<Self> {
        let pairs = self.rotary_dim / 2;
        let expected = || {
            inner.error(format!(
                "`short_factor`: expected a list of {pairs} numbers above 0, got {}",
                inner.got("short_factor")
            ))
        };
        let list = inner
            .get("short_factor")
            .and_then(Value::as_array)
            .filter(|list| list.len() == pairs)
            .ok_or_else(expected)?;
        let number = |value: &Value| {
            value.as_f64().map(|number| number as f32).filter(|number| number.is_normal() && *number > 0.0)
        };
        let divisors = list.iter().map(|value| number(value).ok_or_else(expected)).collect::<Result<_>>()?;
        let most = fields.required_size("max_position_embeddings")?;
        let original = match inner.size("original_max_position_embeddings")? {
            Some(original) => original,
            None => fields.size("original_max_position_embeddings")?.unwrap_or(most),
        };
        let factor = inner.positive("factor")?.unwrap_or(most as f64 / original as f64);
        let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
        let amplitude = inner.positive("attention_factor")?.unwrap_or(usual);
        if !(amplitude as f32).is_normal() {
            return Err(inner.error(format!(
                "the factor of what is rotated: expected a number that f32 can hold, got {amplitude:e}"
            )));
        }
        Ok(Self { divisors: Some(divisors), amplitude, longest: Some(original), ..self })
    }
}

/// Where a family keeps the older keys of its rope.
pub(super) struct RopeKeys {
    pub(super) theta: &'static [&'static str],
    pub(super) factor: &'static [&'static str],
    pub(super) default_factor: f64,
    /// Whether only a part of each head may be rotated.
    pub(super) partial: bool,
    pub(super) default_theta: f64,
    /// The part of `rope_parameters` to read, where it has one for each type of layer.
    pub(super) layer_type: Option<&'static str>,
}

impl RopeKeys {
    /// One rope for all layers that rotates whole heads, with no older keys.
    pub(super) const WHOLE: Self = Self {
        theta: &[],
        factor: &[],
        default_factor: 1.0,
        partial: false,
        default_theta: 10_000.0,
        layer_type: None,
    };
}

/// The value of whichever of `keys` are there; they must agree.
fn agreed(fields: &Fields<'_>, keys: &[&str]) -> Result<Option<f64>> {
    let mut first: Option<(&str, f64)> = None;
    for &key in keys {
        match (first, fields.positive(key)?) {
            (Some((other, a)), Some(b)) if a != b => {
                return Err(fields.error(format!("`{other}` ({a}) and `{key}` ({b}) disagree")));
            }
            (None, Some(value)) => first = Some((key, value)),
            _ => {}
        }
    }
    Ok(first.map(|(_, value)| value))
}

fn rotary_dim(fields: &Fields<'_>, keys: &RopeKeys, head_dim: usize, factor: f64) -> Result<usize> {
    if factor > 1.0 {
        return Err(fields.error(format!("`{}`: expected at most 1, got {factor}", keys.factor[0])));
    }
    if factor != 1.0 && !keys.partial {
        return Err(fields.unsupported(format!("partial rotary embeddings ({factor} of a head) in this family")));
    }
    let rotary_dim = (head_dim as f64 * factor) as usize;
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
        return Err(fields.error(format!(
            "expected an even number of rotated elements in a head, got {rotary_dim} ({factor} of {head_dim})"
        )));
    }
    Ok(rotary_dim)
}

impl Llama3Scaling {
    fn parse(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<Self> {
        let required = |key: &str| {
            inner.positive(key)?.ok_or_else(|| inner.error(format!("`{key}` is missing; rope type llama3 needs it")))
        };
        // The order of transformers: the outer key, the inner key, the longest context.
        let original = match fields.size("original_max_position_embeddings")? {
            Some(outer) => outer,
            None => match inner.size("original_max_position_embeddings")? {
                Some(inner) => inner,
                None => fields.required_size("max_position_embeddings")?,
            },
        };
        let scaling = Self {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: original,
        };
        if scaling.factor < 1.0 {
            return Err(inner.error(format!("`factor`: expected at least 1, got {}", scaling.factor)));
        }
        if scaling.high_freq_factor <= scaling.low_freq_factor {
            let Self { low_freq_factor: low, high_freq_factor: high, .. } = scaling;
            return Err(inner.error(format!("expected `high_freq_factor` above `low_freq_factor` ({low}), got {high}")));
        }
        Ok(scaling)
    }

    fn apply(&self, freq: f64) -> f64 {
        let original = self.original_max_position_embeddings as f64;
        let wavelength = 2.0 * PI / freq;
        if wavelength < original / self.high_freq_factor {
            return freq;
        }
        if wavelength > original / self.low_freq_factor {
            return freq / self.factor;
        }
        let smooth = (original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        (1.0 - smooth) * freq / self.factor + smooth * freq
    }
}
