//! The shaders that are compiled, and the rows of the table that they belong to.

use std::collections::{BTreeMap, BTreeSet};

use foretoken::KernelSet;

/// Pieces and constants that do not make a row of their own: what a kernel does with a sum when its loop is over, and how the
/// threads of a workgroup are dealt out.
const FOLDED: [&str; 9] =
    ["activation_", "bias_", "store_", "shift_", "partials_", "LANES=", "SPLITS=", "RUN=", "OWN="];

/// One shader of foretoken.
pub struct Shader {
    /// The kernel sets that have it.
    pub sets: String,
    /// The row that it belongs to, among those of its sets.
    pub kernel: String,
    /// Its own name.
    pub label: String,
    pub wgsl: String,
    /// Whether its loop is the row's in the table: it is the last by name, without bias, as most models have it. Those of others
    /// differ in the order of loads at most, and to print instructions takes as long as to compile.
    pub shown: bool,
}

/// All of them, in the order of their names.
pub fn all() -> Vec<Shader> {
    let mut found: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for set in KernelSet::ALL {
        for (label, wgsl) in
            foretoken::kernels::shaders(set).into_iter().filter(|(label, _)| fits_amd(label) && is_compiled(label))
        {
            found.entry(label).or_insert_with(|| (wgsl, Vec::new())).1.push(set.to_string());
        }
    }
    let mut rows = BTreeSet::new();
    let of = |(label, (wgsl, sets)): (String, (String, Vec<String>))| {
        let (sets, kernel) = (sets.join("+"), kernel(&label));
        let shown = rows.insert((sets.clone(), kernel.clone()));
        Shader { sets, kernel, label, wgsl, shown }
    };
    let mut shaders: Vec<_> = found.into_iter().rev().map(of).collect();
    shaders.reverse();
    shaders
}

/// Whether a card of AMD has the subgroups that a shader is made for.
fn fits_amd(label: &str) -> bool {
    label.split(' ').find_map(|word| word.strip_prefix("SUBGROUP=")).is_none_or(|size| size == "32" || size == "64")
}

/// Whether a shader is compiled. What follows a product is the same code whatever the format of its weights: of the formats of
/// blocks only the plainest shader of each row is.
fn is_compiled(label: &str) -> bool {
    let is_dense = |word: &str| ["weight_f32", "weight_f16", "weight_bf16"].contains(&word);
    let of_blocks = label.split(' ').any(|word| word.starts_with("weight_") && !is_dense(word));
    let plain = ["activation_none", "bias_none", "store_set", "partials_none"];
    !of_blocks || label.split(' ').all(|word| !is_folded(word) || word.contains('=') || plain.contains(&word))
}

fn is_folded(word: &str) -> bool {
    FOLDED.iter().any(|folded| word.starts_with(folded))
}

/// A shader's name without what is folded; its first word is the file's.
fn kernel(label: &str) -> String {
    let (file, rest) = label.split_once(' ').unwrap_or((label, ""));
    let kept = rest.split(' ').filter(|word| !is_folded(word));
    [file].into_iter().chain(kept).collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_what_the_loop_depends_on() {
        let label = "matmul weight_f16 activation_silu bias_none finish_gated store_set rows_own partials_none LANES=32 SPLITS=1 \
                     OWN=2 ROWS=2 RUN=1 RUNS=1";
        assert_eq!(kernel(label), "matmul weight_f16 finish_gated rows_own ROWS=2 RUNS=1");
        assert_eq!(kernel("shift_tokens"), "shift_tokens");
        assert_eq!(kernel("mix shift_add"), "mix");
    }

    #[test]
    fn every_row_shows_one_of_its_shaders() {
        let (mut shown, shaders) = (BTreeMap::<_, usize>::new(), all());
        assert!(shaders.is_sorted_by_key(|shader| &shader.label));
        assert!(shaders.iter().all(|shader| !shader.shown || !shader.label.contains(" bias_add ")));
        for shader in shaders {
            *shown.entry((shader.sets, shader.kernel)).or_default() += usize::from(shader.shown);
        }
        assert!(shown.len() > 100 && shown.values().all(|&count| count == 1), "{shown:?}");
    }

    #[test]
    fn of_blocks_only_the_plainest_is_compiled() {
        let label = |weight, activation| {
            format!("matmul {weight} {activation} bias_none finish_gated store_set LANES=4 ROWS=2")
        };
        assert!(
            is_compiled(&label("weight_q4_k", "activation_none"))
                && is_compiled(&label("weight_f16", "activation_silu"))
        );
        assert!(!is_compiled(&label("weight_q4_k", "activation_silu")) && is_compiled("embed weight_q6_k"));
    }

    #[test]
    fn only_subgroups_that_amd_has_count() {
        assert!(fits_amd("norm reduce_subgroup LANES=256 SUBGROUP=64") && fits_amd("norm reduce_serial"));
        assert!(!fits_amd("norm reduce_subgroup LANES=256 SUBGROUP=16"));
    }
}
