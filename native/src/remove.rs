//! `foretoken remove`: a kept model of the hub's is kept no longer.

use std::fs::{File, TryLockError};

use foretoken::{Error, Result};

use crate::hub::{self, ContentHash, HubName, Pick, Repository, Settings};
use crate::terminal::{Outcome, SUCCESS, bytes, print};

#[derive(clap::Args)]
pub struct Args {
    /// owner/name for all of it; owner/name@revision, owner/name:Q4_K_M or owner/name/file.gguf for a part
    #[arg(value_name = "NAME")]
    name: String,
}

pub fn run(args: &Args) -> Outcome<u8> {
    let name = HubName::expect(&args.name)?;
    let repository = Repository::new(&Settings::of_environment()?.cache, &name.repository);
    let _locks = locks(&repository)?;
    let freed = if name.pick == Pick::Any && name.revision.is_none() {
        if !repository.folder().is_dir() {
            let message = format!("{name}: is not kept; `foretoken models` lists what is");
            return Err(Error::input(message).into());
        }
        repository.remove_all()?
    } else {
        repository.remove(&hub::kept_files(&name, &repository)?)?
    };
    print(&format!("{name} is removed: {} are free\n", bytes(freed)))?;
    Ok(SUCCESS)
}

/// Holds what a download of one of the model's files would hold.
fn locks(repository: &Repository) -> Result<Vec<File>> {
    let (_, unfinished) = repository.blobs();
    let hashes = unfinished.iter().filter_map(|path| ContentHash::read(path.file_stem()?.to_str()?).ok());
    let mut held = Vec::new();
    for hash in hashes {
        let file = repository.lock_file(&hash)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let message = format!("{}: another program is downloading it; wait for its end", repository.name);
            return Err(Error::input(message));
        }
        held.push(file);
    }
    Ok(held)
}
