//! `symbia log`: look at the log, take it elsewhere, mend it.

mod read;
mod reader;
mod refill;
mod restore;
mod show;
mod story;
mod tail;
mod transfer;

pub use read::{SEALS, each, extents, find, message_of, seals, total};
pub use refill::refuse_unfinished;
pub use transfer::open_export;

use crate::{Ended, cli::LogCommand, config::Config, opened::Opened};

/// Runs the subcommand.
pub async fn run(config: &Config, command: LogCommand) -> Ended {
    match command {
        LogCommand::Tail(options) => Opened::with(config, async |open| tail::run(config, open, &options).await).await,
        LogCommand::Show { what, conversation } => {
            Opened::with(config, async |open| match (&what, &conversation) {
                (Some(what), _) => show::run(config, open, what).await,
                (None, Some(conversation)) => story::run(config, open, conversation).await,
                (None, None) => anyhow::bail!("name what to show"),
            })
            .await
        }
        LogCommand::Export { out, service } => {
            Opened::with(config, async |open| transfer::export(config, open, out.as_deref(), &service).await).await
        }
        LogCommand::Import { file } => transfer::import(config, &file).await,
        LogCommand::Restore { from, service, yes } => restore::run(config, &from, &service, yes).await,
        LogCommand::Resume => refill::resume(config).await,
    }
}
