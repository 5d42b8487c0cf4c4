//! The `foretoken` command: files, terminal and blocking calls over the `foretoken` library.
//!
//! [`run`] is the whole command with a [`Console`] to read from and write to; the program of that name hands it the
//! process's, tests hand it their own.
//!
//! Standard output carries results only; everything else goes to standard error. The exit code is 0 only on success, 1
//! on an error, 2 on wrong usage, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, and 141 where the reader of standard output
//! is gone.

mod analyze;
mod audit;
mod bench;
mod console;
mod devices;
mod drafting;
mod folder;
mod generate;
mod hub;
mod init_heads;
mod inspect;
mod interactive;
mod interrupt;
mod machine;
mod marginals;
mod merge;
mod models;
mod output;
mod picks;
mod plot;
mod prompt;
mod pull;
mod quantize;
mod remove;
mod score;
mod source;
mod terminal;
mod train;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use console::Scope;
pub use console::{Console, Environment, Gpus, Sleep, Terminals};
use terminal::{FAILURE, Failure, Outcome, SUCCESS, print_status};

/// The exit code for a command line that makes no sense.
const WRONG_USAGE: u8 = 2;

/// The exit code that a shell reports of a program that SIGPIPE ended.
const READER_GONE: u8 = 141;

#[derive(Parser)]
#[command(version, about = "Run language models on the GPU, through WebGPU", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt with generated text
    ///
    /// Without a prompt: from a terminal an interactive session, else the prompt is standard input. One line break at
    /// the end of standard input or of a prompt file does not count as part of the prompt.
    Generate(generate::Args),
    /// Tell how probable a text is: log-probabilities, nats a token, bits per byte
    Score(score::Args),
    /// Tell what may stand two or three places ahead, given only the prompt
    ///
    /// Sums the model's distribution over the tokens that may stand in between. Each token's probability comes with
    /// certified bounds: the sum over all tokens in between lies within them.
    Marginals(marginals::Args),
    /// Measure how well a model, its marginals and multi-token heads predict ahead: accuracy with intervals, plots
    ///
    /// Teacher-forced, over every sample of a JSON-lines file. The folder of the results holds report.json, report.md, SVG
    /// plots and a record of each sample, so that an interrupted run goes on, and shards can be put together. Ctrl-C and SIGTERM end a run after the sample that is under way.
    Analyze(analyze::Args),
    /// Describe a checkpoint: family, sizes, memory, tensors, heads
    Inspect(inspect::Args),
    /// Make multi-token heads for a model, untrained: where training starts
    InitHeads(init_heads::Args),
    /// Train multi-token heads on texts, on the GPU
    ///
    /// The output folder then holds heads for generate --draft. Ctrl-C and SIGTERM write a checkpoint, and --resume goes on from it
    /// as if nothing had been.
    Train(Box<train::Args>),
    /// Write a checkpoint with the LoRA of heads merged into its weights, and the heads without it beside them
    ///
    /// The new folder is in Hugging Face layout, its tensors of the types they had. What it generates is what the model
    /// generates with these heads, but for the rounding of changed tensors to f16 or bf16 where they are of these.
    Merge(merge::Args),
    /// Write a model as one GGUF file, its matrices in fewer bits, for this and other programs
    ///
    /// Reads a folder or a GGUF file; metadata, tokenizer and chat template go with the tensors. Scales are searched for by least
    /// squares, and types are mixed as llama.cpp mixes them: q4_k is its Q4_K_M. Multi-token heads stay where they are.
    Quantize(quantize::Args),
    /// Download a model from the Hugging Face hub, or what is new of it, and check every file by its hash
    ///
    /// Prints the folder or file that it is in. Every --model takes the same names, and downloads what is not kept yet. Models are
    /// kept where Python's huggingface_hub keeps them (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub), and HF_TOKEN, HF_ENDPOINT and
    /// HF_HUB_OFFLINE mean what they mean there. A download that was interrupted goes on where it broke off.
    Pull(pull::Args),
    /// List the models of the hub that are kept: revisions, files, sizes, verified or not
    Models(models::Args),
    /// Remove a model of the hub's from those that are kept, or one revision, quantisation or file of it
    Remove(remove::Args),
    /// List the adapters, say which one is picked and why, and test every kernel on it
    Devices(devices::Args),
    /// Check that drafts change nothing: texts with and without, and logits bit by bit, on this device
    ///
    /// Continues a few prompts with every drafter, as chains and as trees, greedily and drawn. The exit code is 0 where
    /// every text is the one without drafts, and 1 at a difference.
    Audit(audit::Args),
    /// Measure the adapter, the kernels and a model on it: a table, and one JSON line last
    Bench(bench::Args),
}

/// Runs the command line `args`, the program's name first, and tells the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, console: Console) -> u8 {
    let _scope = Scope::enter(console);
    let command = match Cli::try_parse_from(args) {
        Ok(cli) => cli.command,
        Err(error) => {
            console::with(|console| console.print_usage(&error));
            return if error.use_stderr() { WRONG_USAGE } else { SUCCESS };
        }
    };
    match block_on(command) {
        Ok(code) => code,
        Err(Failure::ReaderGone) => READER_GONE,
        Err(Failure::Error(error)) => {
            print_status(format_args!("error: {error}"));
            FAILURE
        }
    }
}

/// The only place that blocks on the library's futures.
fn block_on(command: Command) -> Outcome<u8> {
    match command {
        Command::Generate(args) => pollster::block_on(generate::run(&args)),
        Command::Score(args) => pollster::block_on(score::run(&args)),
        Command::Marginals(args) => pollster::block_on(marginals::run(&args)),
        Command::Analyze(args) => pollster::block_on(analyze::run(&args)),
        Command::Inspect(args) => pollster::block_on(inspect::run(&args)),
        Command::InitHeads(args) => pollster::block_on(init_heads::run(&args)),
        Command::Train(args) => pollster::block_on(train::run(&args)),
        Command::Merge(args) => pollster::block_on(merge::run(&args)),
        Command::Quantize(args) => pollster::block_on(quantize::run(&args)),
        Command::Pull(args) => pollster::block_on(pull::run(&args)),
        Command::Models(args) => models::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::Devices(args) => pollster::block_on(devices::run(&args)),
        Command::Audit(args) => pollster::block_on(audit::run(&args)),
        Command::Bench(args) => pollster::block_on(bench::run(&args)),
    }
}
