//! Models whose matrices are packed at load: the bits of the model with the same weights in f32, on every path.

use std::collections::BTreeMap;

use ::safetensors::SafeTensors;

use super::head_tests::golden;
use super::{AuditOptions, GenerateOptions};
use crate::format::files::MemoryFiles;
use crate::format::random::RandomLlama;
use crate::format::safetensors::serialize_f32;
use crate::format::stored::StoredType;
use crate::kernels::tests::adapters::{on_every_adapter, on_every_set};
use crate::marginal::MarginalOptions;
use crate::self_test::InjectedFault;
use crate::{Engine, EngineOptions, Error, ErrorKind, Gpu, GpuOptions, KernelSet, WeightFormat};

const PACKED: Option<WeightFormat> = Some(WeightFormat::Q8_0);

/// The formats whose blocks have 32 weights, as many as the rows of the backbones are multiples of.
fn formats() -> impl Iterator<Item = WeightFormat> + Clone {
    WeightFormat::packed_at_load().filter(|format| format.block_inputs() == 32)
}

/// Backbones whose rows are whole blocks, tied and not, in each stored type, and of both families.
const BACKBONES: [&str; 6] = ["llama-gqa", "llama-mha", "llama-f16", "llama-bf16", "llama-rope3", "neox-parallel"];

/// Heads in a folder of their own, and their backbone.
const HEADS: [[&str; 2]; 4] = [
    ["llama-gqa", "heads-parallel"],
    ["llama-gqa", "heads-lora"],
    ["neox-parallel", "heads-sequential"],
    ["mistral", "heads-medusa"],
];

/// The same checkpoint in f32, each number changed by `change`, which also hears the tensor's shape.
fn changed(mut files: MemoryFiles, change: impl Fn(&[usize], Vec<f32>) -> Vec<f32>) -> MemoryFiles {
    let bytes = &files.files["model.safetensors"];
    let stored = SafeTensors::deserialize(bytes).expect("safetensors");
    let tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = stored
        .iter()
        .map(|(name, view)| {
            let values = StoredType::from_file(view.dtype()).expect("a known type").decode(view.data());
            (name.to_owned(), (view.shape().to_vec(), change(view.shape(), values)))
        })
        .collect();
    let bytes = serialize_f32("model.safetensors", &tensors).expect("a file");
    files.files.insert("model.safetensors".to_owned(), bytes.into());
    files
}

/// The same checkpoint with every matrix as it is once it is packed.
fn rounded(name: &str) -> MemoryFiles {
    rounded_to(WeightFormat::Q8_0, golden(name))
}

fn rounded_to(format: WeightFormat, files: MemoryFiles) -> MemoryFiles {
    changed(files, |shape, values| match *shape {
        [_, inputs] => format.rounded(&values, inputs),
        _ => values,
    })
}

fn options(kernels: Option<KernelSet>, quantize: Option<WeightFormat>) -> EngineOptions {
    EngineOptions { kernels, quantize, self_test: false, ..EngineOptions::default() }
}

/// An engine with one pipeline of 8 rows for every width: few are compiled. That each width gives the same bits in every format is
/// what the tests of products say.
fn engine_of_one_width(gpu: &Gpu, files: &MemoryFiles, options: &EngineOptions) -> Engine {
    let fault = Some(InjectedFault::Each);
    pollster::block_on(Engine::load_with_fault(gpu, files, options, &mut |_| {}, fault)).expect("it loads")
}

fn engine(gpu: &Gpu, files: &MemoryFiles, options: &EngineOptions) -> Engine {
    pollster::block_on(Engine::load(gpu, files, options, &mut |_| {})).expect("it loads")
}

fn text() -> Vec<u32> {
    (0..45).map(|at| 1 + at * 37 % 90).collect()
}

#[test]
fn a_packed_model_has_the_bits_of_its_rounded_weights() {
    on_every_set(|gpu, set| {
        // Elsewhere compilers may fuse what follows a product in one pipeline and not in the other.
        if !gpu.summary().software {
            return;
        }
        // Each backbone in some formats, and one with rows of 256 in those that have as many weights in a block. Each format in one
        // set: the tests of products go through all.
        let small = formats().zip(BACKBONES.iter().cycle()).map(|(format, name)| (format, golden(name)));
        let shape = RandomLlama { hidden: 256, layers: 1, intermediate: 512, ..RandomLlama::tiny(StoredType::F32) };
        let large = WeightFormat::packed_at_load().filter(|format| format.block_inputs() == 256);
        let large = large.map(|format| (format, shape.files()));
        let sets = KernelSet::ALL.len();
        let own = KernelSet::ALL.iter().position(|of| *of == set).expect("a set");
        for (format, stored) in small.chain(large).skip(own).step_by(sets) {
            let logits = |files: &MemoryFiles, quantize| {
                let engine = engine_of_one_width(gpu, files, &options(Some(set), quantize));
                let mut session = engine.session().expect("a session");
                let logits = pollster::block_on(session.logits(&text())).expect("logits").concat();
                logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let packed = logits(&stored, Some(format));
            let same = logits(&rounded_to(format, stored.clone()), None);
            assert!(packed == same, "{format} of {}, {set}, {}", stored.name, gpu.summary());
            assert!(packed != logits(&stored, None), "{format} of {} is another model", stored.name);
        }
    });
}

#[test]
fn a_packed_model_takes_less_memory_and_inspection_knows_how_much() {
    on_every_adapter(|gpu| {
        for name in BACKBONES {
            let inspection =
                pollster::block_on(crate::model::inspect(&golden(name), None)).expect("it can be inspected");
            let told = inspection.quantized_bytes["q8_0"];
            assert!(told < inspection.weights_bytes * 3 / 4, "{name}: {told} of {}", inspection.weights_bytes);
            let engine = engine(gpu, &golden(name), &options(None, PACKED));
            // Without the norms, and the embedding where there is an LM head.
            assert!(engine.step_bytes(0) < told, "{name}: {told}, of which a step reads {}", engine.step_bytes(0));
        }
    });
}

#[test]
fn drafts_of_every_kind_leave_a_packed_model_alone() {
    on_every_adapter(|gpu| {
        for ([backbone, heads], format) in HEADS.into_iter().zip(formats().skip(1).step_by(2)) {
            let options = options(None, Some(format));
            let (base, heads) = (golden(backbone), golden(heads));
            let load = async || Engine::load_with_heads(gpu, &base, &heads, &options, &mut |_| {}).await;
            let engine = pollster::block_on(load()).expect("it loads");
            let mut session = engine.session().expect("a session");
            let prompts = vec![vec![1, 5, 9, 13, 17, 21, 25], vec![3, 4, 3, 4, 3, 4]];
            let audit = AuditOptions { prompts, tokens: Some(8) };
            let audit = pollster::block_on(session.audit(&audit, &mut |_| {})).expect("an audit");
            assert!(audit.equal && audit.width_invariant && audit.logits.equal, "{backbone}: {audit:?}");
            assert!(audit.cases.iter().any(|case| case.accepted > 0), "{backbone}: {audit:?}");
        }
    });
}

#[test]
fn marginals_of_a_packed_model_keep_their_bounds() {
    on_every_adapter(|gpu| {
        for name in ["llama-mha", "neox-parallel"] {
            let mut session = engine(gpu, &golden(name), &options(None, PACKED)).session().expect("a session");
            let marginal = MarginalOptions { offset: 2, ..MarginalOptions::default() };
            let found = pollster::block_on(session.marginals(&text()[..9], &marginal, &mut |_| {})).expect("marginals");
            assert!(found.mass_covered > 0.98, "{name}, {}: {}", gpu.summary(), found.mass_covered);
            let mut same = engine(gpu, &rounded(name), &options(None, None)).session().expect("a session");
            let expected = pollster::block_on(same.marginals(&text()[..9], &marginal, &mut |_| {})).expect("marginals");
            if gpu.summary().software {
                assert_eq!(format!("{:?}", found.top), format!("{:?}", expected.top), "{name}, {}", gpu.summary());
            }
        }
    });
}

#[test]
fn the_self_test_at_load_covers_every_format() {
    on_every_adapter(|gpu| {
        let checked = EngineOptions { quantize: PACKED, ..EngineOptions::default() };
        let engine = engine(gpu, &golden("llama-f16"), &checked);
        assert!(engine.width_invariant(), "{}", gpu.summary());
        let mut session = engine.session().expect("a session");
        let options = GenerateOptions { max_tokens: Some(5), ..GenerateOptions::default() };
        let mut generation = pollster::block_on(session.generate(&[1, 2], &options, &mut |_| {})).expect("a prompt");
        while pollster::block_on(generation.next()).expect("a token").is_some() {}
        assert_eq!(generation.ids().len(), 5);
    });
}

fn refusal(gpu: &Gpu, files: &MemoryFiles) -> Error {
    pollster::block_on(Engine::load(gpu, files, &options(None, PACKED), &mut |_| {})).err().expect("it is refused")
}

#[test]
fn what_cannot_be_packed_is_refused_before_anything_is_made() {
    on_every_adapter(|gpu| {
        // Another device, which no other test has buffers on.
        let adapter = Some(gpu.summary().index.to_string());
        let own = GpuOptions { adapter, webgpu_limits: true, ..GpuOptions::default() };
        let gpu = &pollster::block_on(Gpu::open(&own)).expect("a device");
        let before = gpu.counts().buffers;
        for (name, tensor, shape) in [
            ("llama-odd", "model.embed_tokens.weight", "[101, 36]"),
            ("neox-f16", "gpt_neox.embed_in.weight", "[96, 48]"),
        ] {
            let error = refusal(gpu, &golden(name));
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            for part in [tensor, shape, "Q8_0", "a multiple of 32", "without quantizing"] {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
        assert_eq!(gpu.counts().buffers, before, "{}", gpu.summary());
    });
}

#[test]
fn a_weight_that_no_scale_can_hold_is_refused() {
    let large = changed(golden("llama-gqa"), |shape, mut values| {
        if shape.len() == 2 {
            values[7] = -1e7;
        }
        values
    });
    on_every_adapter(|gpu| {
        let error = refusal(gpu, &large);
        for part in ["model.embed_tokens.weight", "row 0", "-1e7", "Q8_0"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    });
}

#[cfg(feature = "train")]
mod training {
    use super::{PACKED, golden, on_every_adapter, rounded, text};
    use crate::format::checkpoint::Checkpoint;
    use crate::format::files::MemoryFiles;
    use crate::format::mtp::{Init, InitOptions, InitSource, LoraOptions, add_lora, init_heads};
    use crate::train::{MicroBatch, TrainOptions, Trainer};
    use crate::{ErrorKind, WeightFormat};

    const BASE: &str = "llama-gqa";

    fn options(quantize: Option<WeightFormat>) -> TrainOptions {
        TrainOptions { sequences: 2, length: 16, quantize, ..TrainOptions::default() }
    }

    fn heads(lora: Option<bool>) -> MemoryFiles {
        let base = golden(BASE);
        let init = InitOptions {
            heads: 2,
            sequential: false,
            depth: 1,
            source: InitSource::Default,
            init: Init::Random,
            seed: 1,
            // With a gated LoRA the first head is the model itself.
            backbone_first: lora.is_some(),
        };
        let checkpoint = pollster::block_on(Checkpoint::open(&base)).expect("it opens");
        let mut files = pollster::block_on(init_heads(&checkpoint, &init)).expect("new heads");
        if let Some(gated) = lora {
            let lora = LoraOptions { rank: 2, blocks: 1, gated, seed: 3 };
            add_lora(&mut files, checkpoint.config(), &lora).expect("a LoRA");
        }
        let files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        MemoryFiles { name: "new heads".to_owned(), files }
    }

    #[test]
    fn heads_learn_over_a_packed_backbone_what_they_learn_over_its_rounded_weights() {
        on_every_adapter(|gpu| {
            let (heads, batch) = (heads(None), MicroBatch { ids: text()[..32].to_vec(), counts: vec![true; 32] });
            let steps = |base: &MemoryFiles, quantize| {
                let load = async || Trainer::load(gpu, base, &heads, None, &options(quantize), &mut |_| {}).await;
                let mut trainer = pollster::block_on(load()).expect("a trainer");
                let step = |_| pollster::block_on(trainer.step(std::slice::from_ref(&batch), 0.01)).expect("a step");
                (0..3).map(step).collect::<Vec<_>>()
            };
            let packed = steps(&golden(BASE), PACKED);
            assert!(packed[2].losses[0].nll < packed[0].losses[0].nll, "{packed:?}");
            if gpu.summary().software {
                assert_eq!(packed, steps(&rounded(BASE), None), "{}", gpu.summary());
            }
        });
    }

    #[test]
    fn a_lora_over_a_packed_backbone_must_be_gated() {
        on_every_adapter(|gpu| {
            let load = |gated| {
                let options = TrainOptions { train_lora: true, ..options(PACKED) };
                pollster::block_on(Trainer::load(gpu, &golden(BASE), &heads(Some(gated)), None, &options, &mut |_| {}))
            };
            let mut trainer = load(true).expect("a gated one stays apart");
            let batch = MicroBatch { ids: text()[..32].to_vec(), counts: vec![true; 32] };
            pollster::block_on(trainer.step(&[batch], 0.01)).expect("a step");
            let error = load(false).err().expect("it is refused");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(["Q8_0", "gated"].iter().all(|part| error.to_string().contains(part)), "{error}");
        });
    }
}
