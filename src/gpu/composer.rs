//! Links shaders: a file of `shaders/`, the pieces it uses, and constants become one WGSL text.
//!
//! WGSL is order-free at module scope, so linking is concatenation. What a file may ask for:
//! - `//! use NAME`: the piece `shaders/lib/NAME.wgsl`, or the piece bound to the slot NAME;
//! - `//: repeat i COUNT` ... `//: end`: the lines between, once for each value of `i`, with `$i` replaced. Drivers do
//!   not unroll the loops that naga writes, and unrolled bodies with literal indices are what makes kernels fast.
//!
//! The library carries the files without their comments (`build.rs`). The composer never looks at the GPU; every text it can
//! produce is validated and translated by a test.

use std::fmt::Write;

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("OUT_DIR"), "/shaders/", $name, ".wgsl")))),*]
    };
}

/// The shader files of serving: names below `shaders/` without the extension, and texts.
const SERVING: &[(&str, &str)] = sources![
    "attention_scores",
    "attention_softmax",
    "attention_values",
    "bench_copy",
    "bench_read",
    "commit",
    "compact_cache",
    "compact_hidden",
    "copy_hidden",
    "delta_commit",
    "delta_inputs",
    "delta_rule",
    "draft_lookup",
    "draft_recorded",
    "draft_top",
    "embed",
    "head_norm",
    "log_probs",
    "lora",
    "matmul",
    "matmul_tiled",
    "mixture",
    "norm",
    "normalizer",
    "nucleus",
    "ranking",
    "rope_cache",
    "sample",
    "shift_tokens",
    "siblings",
    "stage_window",
    "trace",
    "tree_rows",
    "lib/activation_gelu",
    "lib/activation_gelu_tanh",
    "lib/activation_none",
    "lib/activation_sigmoid",
    "lib/activation_silu",
    "lib/activation_softcap",
    "lib/batch",
    "lib/bias_add",
    "lib/bias_none",
    "lib/branches",
    "lib/cache",
    "lib/cache_f16",
    "lib/cache_f32",
    "lib/cut",
    "lib/finish_gated",
    "lib/finish_plain",
    "lib/head_norm",
    "lib/keys",
    "lib/likelihood_logit",
    "lib/likelihood_probability",
    "lib/listing",
    "lib/norm_layer",
    "lib/norm_rms",
    "lib/partial_of",
    "lib/partials_block",
    "lib/partials_group",
    "lib/partials_none",
    "lib/product",
    "lib/random",
    "lib/reduce_serial",
    "lib/reduce_subgroup",
    "lib/reduce_workgroup",
    "lib/rows_own",
    "lib/rows_shared",
    "lib/sampling",
    "lib/shift_add",
    "lib/shift_none",
    "lib/slots_line",
    "lib/slots_ring",
    "lib/softcap_none",
    "lib/softcap_tanh",
    "lib/softmax_sum",
    "lib/split_none",
    "lib/split_workgroup",
    "lib/store_add",
    "lib/store_mul",
    "lib/store_set",
    "lib/tree",
    "lib/weight_at",
    "lib/weight_bf16",
    "lib/weight_blocks",
    "lib/weight_f16",
    "lib/weight_f32",
    "lib/weight_halves",
    "lib/weight_q4_0",
    "lib/weight_q4_k",
    "lib/weight_q6_k",
    "lib/weight_q8_0",
];

/// Pieces that read blocks which only GGUF files have.
const GGUF: &[(&str, &str)] = if cfg!(feature = "gguf") {
    sources![
        "lib/iq4_table",
        "lib/weight_iq4_nl",
        "lib/weight_iq4_xs",
        "lib/weight_mxfp4",
        "lib/weight_q2_k",
        "lib/weight_q3_k",
        "lib/weight_q4_1",
        "lib/weight_q5_0",
        "lib/weight_q5_1",
        "lib/weight_q5_k",
    ]
} else {
    &[]
};

/// Shaders of training, which not every program brings along.
const TRAINING: &[(&str, &str)] = if cfg!(feature = "train") {
    sources![
        "activate",
        "activate_inputs",
        "adamw",
        "causal_gather",
        "causal_scatter",
        "causal_scores",
        "causal_softmax",
        "causal_softmax_inputs",
        "clip_factor",
        "column_sums",
        "gather_rows",
        "head_norm_inputs",
        "head_norm_weights",
        "label_mean_columns",
        "label_mean_inputs",
        "label_mean_scores",
        "lora_inputs",
        "lora_weights",
        "loss_factors",
        "loss_inputs",
        "loss_scan",
        "loss_summary",
        "matmul_inputs",
        "matmul_inputs_tiled",
        "matmul_weights",
        "matmul_weights_tiled",
        "mix",
        "mix_dot",
        "mix_softmax",
        "mix_softmax_inputs",
        "norm_inputs",
        "norm_weights",
        "rope_rows",
        "scatter_rows",
        "squares",
        "lib/causal",
        "lib/label_mean",
        "lib/loss",
        "lib/pick",
        "lib/product_back",
        "lib/slope_gelu",
        "lib/slope_gelu_tanh",
        "lib/slope_none",
        "lib/slope_silu",
        "lib/spread",
    ]
} else {
    &[]
};

/// One form of a kernel: the shader, the pieces bound to its slots, and its constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// The file below `shaders/`, without extension.
    pub shader: &'static str,
    /// Slot and piece: `("weight", "weight_f16")`.
    pub pieces: Vec<(&'static str, &'static str)>,
    /// Emitted as `const NAME: u32 = value;`.
    pub constants: Vec<(&'static str, u32)>,
}

impl Variant {
    /// The form of `shader` with nothing bound yet.
    pub fn of(shader: &'static str) -> Self {
        Self { shader, pieces: Vec::new(), constants: Vec::new() }
    }

    /// Binds `piece` to `slot`.
    pub fn piece(mut self, slot: &'static str, piece: &'static str) -> Self {
        self.pieces.push((slot, piece));
        self
    }

    /// Sets the constant `name`.
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// A name for people, the same for equal variants: `matmul weight_f16 ROWS=4`.
    pub fn label(&self) -> String {
        let mut label = self.shader.to_owned();
        for (_, piece) in &self.pieces {
            let _ = write!(label, " {piece}");
        }
        for (name, value) in &self.constants {
            let _ = write!(label, " {name}={value}");
        }
        label
    }
}

/// Linked WGSL, and where each of its lines came from.
#[derive(Debug)]
pub struct Linked {
    /// The text.
    pub wgsl: String,
    origins: Vec<(String, usize)>,
}

impl Linked {
    /// File and line (from 1) of a line (from 1) of the linked text, for messages.
    #[allow(dead_code, reason = "the tests that validate every shader are who has messages to map")]
    pub fn origin(&self, line: usize) -> String {
        match self.origins.get(line.wrapping_sub(1)) {
            Some((file, line)) => format!("shaders/{file}.wgsl:{line}"),
            None => "constants".to_owned(),
        }
    }
}

/// Links a variant.
///
/// # Panics
/// When the variant names a piece that does not exist or leaves a slot empty: a mistake in this crate, not in its input.
pub fn link(variant: &Variant) -> Linked {
    let mut linked = Linked { wgsl: String::new(), origins: Vec::new() };
    for (name, value) in &variant.constants {
        linked.wgsl += &format!("const {name}: u32 = {value}u;\n");
        linked.origins.push((format!("(constant {name})"), 0));
    }
    let mut queue = vec![variant.shader.to_owned()];
    let mut next = 0;
    while next < queue.len() {
        let file = queue[next].clone();
        next += 1;
        let text = source(&file).unwrap_or_else(|| panic!("{}: no shader file '{file}'", variant.label()));
        let lines: Vec<(usize, &str)> = text.lines().enumerate().map(|(i, line)| (i + 1, line)).collect();
        for slot in lines.iter().filter_map(|(_, line)| line.strip_prefix("//! use ")) {
            let piece = variant.pieces.iter().find(|(name, _)| *name == slot).map_or(slot, |(_, piece)| piece);
            let path = format!("lib/{piece}");
            if !queue.contains(&path) {
                queue.push(path);
            }
        }
        expand(variant, &file, &lines, &[], &mut linked);
    }
    linked
}

/// Names and texts of all shader files.
fn all() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    SERVING.iter().chain(GGUF).chain(TRAINING)
}

/// The names of all shader files.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| *name)
}

/// The names of the files that a variant is linked from.
#[cfg(test)]
pub fn files(variant: &Variant) -> Vec<&'static str> {
    let linked = link(variant);
    names().filter(|name| linked.origins.iter().any(|(file, _)| file == name)).collect()
}

fn source(file: &str) -> Option<&'static str> {
    all().find(|(name, _)| *name == file).map(|(_, text)| *text)
}

/// Emits `lines`, repeating blocks and replacing `$name` for every `(name, value)` in scope.
fn expand(variant: &Variant, file: &str, lines: &[(usize, &str)], scope: &[(&str, u32)], out: &mut Linked) {
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = lines[at];
        at += 1;
        let Some(rest) = line.trim_start().strip_prefix("//: repeat ") else {
            let mut text = line.to_owned();
            for (name, value) in scope {
                text = text.replace(&format!("${name}"), &value.to_string());
            }
            out.wgsl += &text;
            out.wgsl.push('\n');
            out.origins.push((file.to_owned(), number));
            continue;
        };
        let length = block_length(&lines[at..]).unwrap_or_else(|| panic!("{file}:{number}: repeat without end"));
        let (name, count) = rest.split_once(' ').unwrap_or_else(|| panic!("{file}:{number}: repeat NAME COUNT"));
        for value in 0..count_of(variant, count.trim()) {
            let mut inner = scope.to_vec();
            inner.push((name, value));
            expand(variant, file, &lines[at..at + length], &inner, out);
        }
        at += length + 1;
    }
}

/// The number of lines before the `//: end` that closes a block whose first line has been read.
fn block_length(lines: &[(usize, &str)]) -> Option<usize> {
    let mut depth = 1;
    lines.iter().position(|(_, line)| {
        let line = line.trim_start();
        depth += i32::from(line.starts_with("//: repeat ")) - i32::from(line.starts_with("//: end"));
        depth == 0
    })
}

fn count_of(variant: &Variant, count: &str) -> u32 {
    let named = variant.constants.iter().find(|(name, _)| *name == count).map(|(_, value)| *value);
    named
        .or_else(|| count.parse().ok())
        .unwrap_or_else(|| panic!("{}: unknown repeat count '{count}'", variant.label()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_linked_once_and_lines_keep_their_origin() {
        let linked = link(&Variant::of("embed").piece("weight", "weight_f16").constant("LANES", 64));
        assert_eq!(linked.wgsl.matches("struct Row {").count(), 1);
        assert!(linked.wgsl.contains("unpack2x16float"));
        let line = linked.wgsl.lines().position(|line| line.starts_with("struct Row {")).expect("linked") + 1;
        assert_eq!(linked.origin(line), "shaders/lib/batch.wgsl:3");
    }

    #[test]
    fn repeats_nest() {
        let variant = Variant::of("x").constant("N", 2);
        let text = ["//: repeat i N", "a$i", "//: repeat j 2", "b$i$j", "//: end", "//: end", "c"];
        let lines: Vec<_> = text.iter().enumerate().map(|(i, line)| (i + 1, *line)).collect();
        let mut out = Linked { wgsl: String::new(), origins: Vec::new() };
        expand(&variant, "x", &lines, &[], &mut out);
        assert_eq!(out.wgsl.split_whitespace().collect::<Vec<_>>().join(" "), "a0 b00 b01 a1 b10 b11 c");
        assert_eq!(out.origin(2), "shaders/x.wgsl:4");
    }

    #[test]
    fn every_shader_file_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        for (prefix, folder) in [("", folder.clone()), ("lib/", folder.join("lib"))] {
            for entry in std::fs::read_dir(folder).expect("shaders/ is readable") {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|e| e == "wgsl") {
                    let name = format!("{prefix}{}", path.file_stem().expect("a name").to_string_lossy());
                    assert!(source(&name).is_some(), "{name} is listed neither for serving nor for training");
                }
            }
        }
    }
}
