//! `foretoken merge`: a checkpoint with the LoRA of heads in its own weights, for every program that reads such folders. No GPU is
//! used.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use foretoken::Result;
use foretoken::format::checkpoint::{Checkpoint, HeadKind};
use foretoken::format::files::{Files, read_exact};
use foretoken::format::mtp::{self, HeadSet, without_lora};
use foretoken::model::{Patch, merge_lora};

use crate::folder::Folder;
use crate::output::{NewFolder, io_error};
use crate::source::{ModelFlag, Source};
use crate::terminal::{Outcome, SUCCESS, print_status};

/// Bytes copied at a time.
const CHUNK: u64 = 16 << 20;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlag,
    /// The folder with the heads whose LoRA is merged
    #[arg(long, value_name = "DIR")]
    heads: PathBuf,
    /// The folder to write, which must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let files = args.model.files().await?;
    let checkpoint = Checkpoint::open(&files).await?;
    let head_files = Folder::open_heads(&args.heads)?;
    let heads = HeadSet::open(&head_files, checkpoint.config()).await?;
    let mut patches = Vec::new();
    merge_lora(&checkpoint, &heads, &mut |patch| {
        patches.push(patch);
        Ok(())
    })
    .await?;
    debug_assert_eq!(heads.kind, HeadKind::Foretoken, "no other layout has a LoRA");
    let mut stored = BTreeMap::new();
    for name in [mtp::CONFIG, mtp::TENSORS] {
        if let Some(len) = head_files.len(name).await? {
            stored.insert(name.to_owned(), read_exact(&head_files, name, 0..len).await?.into_owned());
        }
    }
    let left = without_lora(&stored)?;

    let out = NewFolder::begin(&args.out)?;
    for name in files.names() {
        // The heads that are merged take the place of those that the model brings.
        if mtp::FILES.contains(&name.as_str()) {
            continue;
        }
        copy(&files, &name, &out.join(&name)).await?;
    }
    for patch in &patches {
        let path = out.join(&patch.file);
        overwrite(&path, patch).map_err(|error| io_error(&path, &error))?;
    }
    for (name, bytes) in &left {
        let path = out.join(name);
        File::create(&path)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(|error| io_error(&path, &error))?;
    }
    out.finish()?;
    let count = patches.len();
    print_status(format_args!(
        "{count} products with their LoRA merged, and the heads without it, in {}",
        args.out.display()
    ));
    Ok(SUCCESS)
}

async fn copy(files: &Source, name: &str, to: &Path) -> Result<()> {
    // A name that was listed and is no file: a folder within the model's.
    let Ok(Some(len)) = files.len(name).await else { return Ok(()) };
    let mut file = File::create(to).map_err(|error| io_error(to, &error))?;
    let mut at = 0;
    while at < len {
        let end = len.min(at + CHUNK);
        let bytes = read_exact(files, name, at..end).await?;
        file.write_all(&bytes).map_err(|error| io_error(to, &error))?;
        at = end;
    }
    file.sync_all().map_err(|error| io_error(to, &error))
}

fn overwrite(path: &Path, patch: &Patch) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(patch.range.start))?;
    file.write_all(&patch.bytes)?;
    file.sync_all()
}
