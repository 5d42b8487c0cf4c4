//! `foretoken init-heads`: multi-token heads that no training has seen, in a folder of their own. No GPU is used.

use std::path::PathBuf;

use clap::ValueEnum;
use foretoken::Error;
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::mtp::{self, CONFIG, Init, InitOptions, InitSource, TENSORS, init_heads};

use crate::output::{make_folder, write_whole};
use crate::source::ModelFlag;
use crate::terminal::{Outcome, SUCCESS, counted, print_status};

/// Heads of the other layout that has files of its own; they would be shadowed.

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlag,
    /// The folder to write, made where it does not exist; it must have no heads yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many heads
    #[arg(long, value_name = "N", default_value_t = 2)]
    heads: usize,
    /// Whether heads also read the token before the one they predict
    #[arg(long, value_enum, default_value = "parallel")]
    kind: Kind,
    /// Copies of the model's last blocks, or small random numbers
    #[arg(long, value_enum, default_value = "copy")]
    init: InitArg,
    /// Layers of a head
    #[arg(long, value_name = "LAYERS", default_value_t = 1)]
    depth: usize,
    /// What heads read: a block's number from 1, whs (a mix of all blocks but the last) or final-norm [default: the
    /// block before those that are copied]
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Option<InitSource>,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The first head is the model's own last block, for the next token
    #[arg(long)]
    backbone_first: bool,
}

/// Whether heads read a token beside the hidden state.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Kind {
    Parallel,
    Sequential,
}

/// What new heads are made of.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum InitArg {
    Copy,
    Random,
}

/// Reads the value of `--source`.
pub fn source(text: &str) -> Result<InitSource, String> {
    match text {
        // The temperature of arXiv 2502.09419.
        "whs" => Ok(InitSource::Mix { temperature: 0.1 }),
        "final-norm" => Ok(InitSource::FinalNorm),
        number => match number.parse() {
            Ok(layer) => Ok(InitSource::Layer(layer)),
            Err(_) => Err("expected a block's number, whs or final-norm".to_owned()),
        },
    }
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let files = args.model.files().await?;
    let checkpoint = Checkpoint::open(&files).await?;
    let options = InitOptions::default()
        .heads(args.heads)
        .sequential(args.kind == Kind::Sequential)
        .depth(args.depth)
        .source(args.source.unwrap_or(InitSource::Default))
        .init(match args.init {
            InitArg::Copy => Init::Copy,
            InitArg::Random => Init::Random,
        })
        .seed(args.seed)
        .backbone_first(args.backbone_first);
    let made = init_heads(&checkpoint, &options).await?;
    make_folder(&args.out)?;
    // Tensors without a description are what an interruption left.
    let described = mtp::FILES.into_iter().filter(|name| *name != TENSORS);
    if let Some(there) = described.map(|name| args.out.join(name)).find(|path| path.exists()) {
        let message = format!("{}: there are heads already; name another folder", there.display());
        return Err(Error::input(message).into());
    }
    // The description last: a folder without one has no heads, whatever else was interrupted.
    for name in [TENSORS, CONFIG] {
        write_whole(&args.out.join(name), &made[name])?;
    }
    print_status(format_args!("{} in {}", counted(args.heads, "head"), args.out.display()));
    Ok(SUCCESS)
}
