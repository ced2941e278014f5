//! `symbia log show --conversation`: an exchange as a person would tell it, from the log.

use std::process::ExitCode;

use symbia_workers::story::tell;

use crate::{Ended, config::Config, exit, opened::Opened, roles};

/// Runs the subcommand.
pub async fn run(config: &Config, open: &Opened, conversation: &str) -> Ended {
    let house = &open.house;
    let secrets = roles::secrets(&open.home, house).await?;
    let story = tell(&house.client, &house.keys, &secrets, conversation).await?;
    if config.json {
        println!("{}", serde_json::to_string(&story)?);
    } else {
        print!("{}", story.text());
    }
    let sound = story.doubts().next().is_none();
    Ok(ExitCode::from(if sound { 0 } else { exit::FOUND }))
}
