//! `foretoken pull`: a model of the hub's, downloaded and checked.

use crate::hub::{self, HubName};
use crate::interrupt;
use crate::terminal::{Outcome, SUCCESS, print};

#[derive(clap::Args)]
pub struct Args {
    /// owner/name, owner/name@revision, owner/name:Q4_K_M or owner/name/file.gguf
    #[arg(value_name = "NAME")]
    name: String,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    interrupt::install()?;
    let path = hub::pull(&HubName::expect(&args.name)?).await?;
    print(&format!("{}\n", path.display()))?;
    Ok(SUCCESS)
}
