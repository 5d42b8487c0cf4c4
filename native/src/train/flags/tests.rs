//! Flags that are refused, and what those that are taken mean.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(flags: &str) -> std::result::Result<Args, String> {
    let words = ["train", "--data", "d.txt", "--out", "o"].into_iter().chain(flags.split_whitespace());
    let args = Cli::try_parse_from(words).map_err(|error| error.to_string())?.args;
    args.check().map_err(|error| error.to_string())?;
    Ok(args)
}

#[test]
fn senseless_flags_are_refused() {
    for (flags, message) in [
        ("--heads 0", "--heads 0"),
        ("--heads 33", "at most 32"),
        ("--heads 1 --kind sequential", "at least 2"),
        ("--depth 0", "--depth 0"),
        ("--mode joint --lora-rank 0", "--lora-rank 0: expected at least 1"),
        ("--lora-rank 0", "--lora-rank 0: expected at least 1"),
        ("--lora-rank 4", "--mode joint"),
        ("--loss-balance rms", "--mode joint"),
        ("--lr nan", "--lr NaN: expected a number above 0"),
        ("--lr -1", "--lr -1"),
        ("--lr 0", "--lr 0"),
        ("--lr inf", "--lr inf"),
        ("--lr many", "--lr"),
        ("--head-lr-mult 0", "--head-lr-mult 0"),
        ("--clip -1", "--clip -1"),
        ("--weight-decay nan", "--weight-decay NaN"),
        ("--weight-decay -0.1", "--weight-decay -0.1"),
        ("--steps 0", "--steps 0"),
        ("--epochs 0", "--epochs 0"),
        ("--steps 3 --epochs 1", "cannot be used with"),
        ("--steps 3 --warmup-steps 3", "fewer than --steps 3"),
        ("--batch 0", "--batch 0"),
        ("--accumulate 0", "--accumulate 0"),
        ("--accumulate 288230376151711744", "--accumulate 288230376151711744: expected at most 4096"),
        ("--batch 1000000000000", "--batch 1000000000000 with --seq-len 2: expected at most 65000"),
        ("--batch 9223372036854775807 --seq-len 4", "--batch 9223372036854775807 with --seq-len 4"),
        ("--batch 1000 --seq-len 66", "--seq-len 66"),
        ("--seq-len 1", "--seq-len 1"),
        ("--gated", "--gated: it is for the LoRA that --mode joint trains"),
        ("--mode joint --gated --heads 1", "--gated --heads 1"),
        ("--mode baseline --gated", "--gated: --mode baseline"),
        ("--whs --source 1", "cannot be used with"),
        ("--warmup-heads h --heads 2", "cannot be used with"),
        ("--warmup-heads h --whs", "cannot be used with"),
        ("--self-distill --distill-tokens 0", "--distill-tokens 0"),
        ("--self-distill --distill-prompt 0", "--distill-prompt 0"),
        ("--distill-tokens 5", "--self-distill"),
        ("--mode baseline --heads 1", "--heads: --mode baseline"),
        ("--mode baseline --kind parallel", "--kind: --mode baseline"),
        ("--mode baseline --depth 1", "--depth: --mode baseline"),
        ("--mode baseline --init copy", "--init: --mode baseline"),
        ("--mode baseline --source 1", "--source: --mode baseline"),
        ("--mode baseline --whs", "--whs: --mode baseline"),
        ("--mode baseline --warmup-heads h", "--warmup-heads: --mode baseline"),
        ("--mode baseline --head-lr-mult 2", "--head-lr-mult: --mode baseline"),
        ("--mode baseline --loss-balance rms", "--loss-balance rms: --mode baseline"),
        ("--mode baseline --target shifted", "--target shifted: --mode baseline"),
        ("--mode baseline --target marginal", "--target marginal: --mode baseline"),
        ("--mode baseline --lora-rank 0", "--lora-rank 0"),
        ("--source nowhere", "final-norm"),
    ] {
        let error = args(flags).err().unwrap_or_default();
        assert!(error.contains(message), "{flags}: expected \"{message}\" in: {error}");
    }
}

/// The configuration of a model with this many blocks.
fn config(blocks: usize) -> ModelConfig {
    let json = include_str!("../../../../tests/golden/llama-gqa/config.json");
    let mut config: Value = serde_json::from_str(json).unwrap();
    config["num_hidden_layers"] = json!(blocks);
    ModelConfig::parse(config.to_string().as_bytes(), None).unwrap()
}

#[test]
fn defaults_are_the_papers() {
    let frozen = args("").unwrap().train_options(64, 0, &[]);
    assert_eq!((frozen.sequences, frozen.accumulate, frozen.weight_decay), (64, 1, 0.01));
    assert_eq!((frozen.train_lora, frozen.balance, frozen.head_rate, frozen.max_norm), (false, false, 1.0, None));
    let joint = args("--mode joint").unwrap();
    assert_eq!(joint.rank(), 8);
    let joint = joint.train_options(64, 0, &[]);
    assert_eq!((joint.train_lora, joint.balance, joint.head_rate), (true, true, 4.0));
    let vanilla = args("--mode joint --head-lr-mult 1 --loss-balance none").unwrap().train_options(64, 0, &[]);
    assert_eq!((vanilla.balance, vanilla.head_rate), (false, 1.0));
    let baseline = args("--mode baseline --lora-rank 4").unwrap();
    let first = baseline.init_options(&config(4)).unwrap();
    assert_eq!((first.heads, first.backbone_first), (1, true));
    let baseline = baseline.train_options(64, 0, &[]);
    assert_eq!((baseline.train_heads, baseline.train_lora, baseline.balance), (false, true, false));
    assert_eq!(args("").unwrap().steps(7), 7);
    assert_eq!(args("--epochs 3").unwrap().steps(7), 21);
    assert_eq!(args("--steps 3").unwrap().steps(7), 3);
}

#[test]
fn heads_are_counted_by_the_tokens_they_predict() {
    let heads = |flags| args(flags).unwrap().init_options(&config(4)).unwrap();
    assert_eq!((heads("").heads, heads("").init), (2, Init::Copy));
    assert_eq!(heads("--kind sequential --heads 3").heads, 2);
    assert_eq!(heads("--init random").init, Init::RandomBeyondFirst);
    assert_eq!(heads("--whs").source, InitSource::Mix { temperature: 0.1 });
}

#[test]
fn a_lora_never_changes_the_next_token_without_training_it() {
    let backbone_first = |flags: &str| args(flags).unwrap().init_options(&config(4)).unwrap().backbone_first;
    for flags in
        ["", "--source 2", "--mode joint", "--mode joint --whs", "--mode joint --source 3", "--mode joint --depth 2"]
    {
        assert!(!backbone_first(flags), "{flags}");
    }
    for flags in ["--source 2", "--source final-norm", "--whs --depth 2", "--kind sequential", "--gated"] {
        assert!(backbone_first(&format!("--mode joint {flags}")), "{flags}");
    }
    let check = |flags, head: Head| args(flags).unwrap().check_next_token(&[head], false);
    let elsewhere = || head(HeadSource::Layer(2), Wiring::Layers);
    let error = check("--mode joint", elsewhere()).unwrap_err().to_string();
    assert!(
        error.contains("no head of --warmup-heads is what the model says next") && error.contains("--gated"),
        "{error}"
    );
    for flags in ["--source 2", "--whs --depth 2", "--source 2 --depth 18446744073709551615"] {
        let error =
            args(&format!("--mode joint --heads 1 {flags}")).unwrap().init_options(&config(4)).unwrap_err().to_string();
        assert!(error.contains("expected at least 2"), "{flags}: {error}");
    }
    check("--mode joint --gated", elsewhere()).unwrap();
    check("", elsewhere()).unwrap();
    check("--mode joint", head(HeadSource::Layer(3), Wiring::LastLayer)).unwrap();
    check("--mode joint", Head { target: true, ..head(HeadSource::Layer(3), Wiring::Layers) }).unwrap();
}

/// A head that reads `source`.
fn head(source: HeadSource, wiring: Wiring) -> Head {
    Head { offset: 1, source, wiring, layers: Vec::new(), final_norm: None, lm_head: None, target: false }
}

#[test]
fn a_lora_is_of_the_blocks_that_heads_follow() {
    let config = config(4);
    let blocks_of = |heads: &[Head], flags| args(flags).unwrap().lora_options(&config, heads).unwrap().blocks;
    let blocks = |sources: &[HeadSource], wiring: Wiring| {
        let heads: Vec<Head> = sources.iter().map(|source| head(source.clone(), wiring.clone())).collect();
        blocks_of(&heads, "--mode joint")
    };
    let mix = HeadSource::Mix { weights: String::new(), temperature: 0.1 };
    assert_eq!(blocks(&[HeadSource::Layer(2)], Wiring::Layers), 2);
    assert_eq!(blocks(&[HeadSource::Layer(1), HeadSource::Layer(3)], Wiring::Layers), 3);
    assert_eq!(blocks(&[HeadSource::Layer(4)], Wiring::Layers), 3);
    assert_eq!(blocks(&[mix], Wiring::Layers), 3);
    assert_eq!(blocks(&[HeadSource::FinalNorm], Wiring::Layers), 3);
    assert_eq!(blocks(&[HeadSource::Layer(3)], Wiring::LastLayer), 4);
    // The last block will be put before heads that begin with the second token.
    let second = Head { offset: 2, ..head(HeadSource::Layer(1), Wiring::Layers) };
    assert_eq!(blocks_of(&[second], "--mode joint"), 4);
    let gated = |source: HeadSource| {
        let heads = [head(HeadSource::Layer(3), Wiring::LastLayer), Head { offset: 2, ..head(source, Wiring::Layers) }];
        blocks_of(&heads, "--mode joint --gated")
    };
    assert_eq!((gated(HeadSource::Layer(2)), gated(HeadSource::Layer(4)), gated(HeadSource::FinalNorm)), (2, 4, 4));
}

#[test]
fn a_lora_that_heads_bring_is_taken() {
    let lora = |gated| Lora { rank: 4, alpha: 4.0, gated, parts: Vec::new() };
    let taken = |flags, gated| args(flags).unwrap().brought_rank(Some(&lora(gated)));
    assert_eq!(taken("", true).unwrap(), None);
    assert_eq!(taken("--mode joint", false).unwrap(), Some(4));
    assert_eq!(taken("--mode joint --lora-rank 4", false).unwrap(), Some(4));
    assert_eq!(args("--mode joint").unwrap().brought_rank(None).unwrap(), None);
    let error = taken("--mode joint --lora-rank 8", false).unwrap_err().to_string();
    assert!(error.contains("--lora-rank 8: the heads of --warmup-heads bring a LoRA of rank 4"), "{error}");
    assert_eq!(taken("--mode joint --gated", true).unwrap(), Some(4));
    assert!(taken("--mode joint", true).unwrap_err().to_string().contains("add --gated"));
    assert!(taken("--mode joint --gated", false).unwrap_err().to_string().contains("acts on all rows"));
}

#[test]
fn only_flags_that_decide_are_compared() {
    let deciding = |flags| args(flags).unwrap().deciding(64, 0.1, None);
    assert_eq!(deciding(""), deciding("--checkpoint-every 3 --json --half --resume --valid v.txt"));
    assert_eq!(deciding(""), deciding("--heads 2 --depth 1 --epochs 1 --head-lr-mult 1 --loss-balance none"));
    for flags in [
        "--heads 3",
        "--whs",
        "--mode joint",
        "--mode baseline",
        "--steps 4",
        "--seed 1",
        "--clip 1",
        "--loss all",
        "--target shifted",
        "--target marginal",
        "--mode joint --gated",
        "--batch 2",
    ] {
        assert_ne!(deciding(""), deciding(flags), "{flags}");
    }
}
