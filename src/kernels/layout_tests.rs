//! One truth for every struct: the fields of the Rust structs lie where naga says the shaders read them.

use std::collections::{BTreeMap, BTreeSet};

use super::shader_tests::validated;
use crate::kernels::declared::{self, Declared, layout};
use crate::kernels::train::AdamStep;
use crate::kernels::{Branch, Cursor, KERNELS, KernelSet, Nucleus, Partials, Row, SampleParams, State, Tree};

/// Field names and offsets, padding left out, and the size.
#[derive(Clone, Debug, PartialEq)]
struct Layout {
    fields: BTreeMap<String, usize>,
    size: usize,
}

impl From<declared::Layout> for Layout {
    fn from(layout: declared::Layout) -> Self {
        let fields = layout.fields.iter().map(|&(name, offset)| (name.to_owned(), offset));
        Self { fields: fields.collect(), size: layout.size }
    }
}

fn reflected(module: &naga::Module, name: &str) -> Option<Layout> {
    module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).and_then(|(_, ty)| {
        let naga::TypeInner::Struct { members, span } = &ty.inner else { return None };
        let named = members.iter().map(|member| (member.name.clone().unwrap_or_default(), member.offset as usize));
        Some(Layout { fields: named.filter(|(name, _)| !name.starts_with("pad")).collect(), size: *span as usize })
    })
}

#[test]
fn structs_lie_as_the_shaders_read_them() {
    let row = layout!(Row: token, position, mask, target_token, adapter);
    let state = layout!(State: committed, length, limit, done, num_rows, logit_row, emitted, rounds);
    let tree = layout!(Tree: num_rows, depth, ranks, nodes);
    let sampling = layout!(SampleParams: vocab, stride, temperature, repetition_penalty, top_k, top_p, min_p, seed);
    let branch = layout!(Branch: token, probability);
    let nucleus = layout!(Nucleus: count, size, covered, left_out, position, first);
    let cursor = layout!(Cursor: nucleus, first, chunk, most, advance);
    let partials = layout!(Partials: vocab, stride, first);
    let adam_step = layout!(AdamStep: rate, decay, beta1, beta2, eps, correction1, correction2);
    // Elements of arrays: their size counts too.
    let shared = [
        ("Row", row),
        ("State", state),
        ("Tree", tree),
        ("Sampling", sampling),
        ("Branch", branch),
        ("Nucleus", nucleus),
        ("Cursor", cursor),
        ("AdamStep", adam_step),
        ("Partials", partials),
    ];
    let shared = shared.map(|(name, layout)| (name, Layout::from(layout)));
    let mut unseen: BTreeSet<&str> = shared.iter().map(|(name, _)| *name).collect();
    let variants = |kernel: &'static Declared| kernel.variants(&KernelSet::ALL).into_iter().map(move |of| (kernel, of));
    for (kernel, variant) in KERNELS.iter().copied().flatten().flat_map(variants) {
        let (module, _) = validated(&variant).expect("every variant is valid");
        for (name, ours) in &shared {
            if let Some(theirs) = reflected(&module, name) {
                assert_eq!(theirs, *ours, "{name} of {}", variant.label());
                unseen.remove(name);
            }
        }
        let label = variant.label();
        match (reflected(&module, "Params"), kernel.params.map(Layout::from)) {
            (Some(theirs), Some(ours)) => {
                assert_eq!(theirs.fields, ours.fields, "Params of {label}");
                assert!(ours.size.next_multiple_of(16) >= theirs.size, "Params of {label}");
            }
            (None, None) => {}
            (theirs, ours) => panic!("{label} has Params {theirs:?}, and is declared with {ours:?}"),
        }
    }
    assert!(unseen.is_empty(), "no shader has a struct of these names: {unseen:?}");
}
