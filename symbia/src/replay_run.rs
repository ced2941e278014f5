//! `symbia replay run`: decide a run again from the log, without calling a model, and compare.

use std::{process::ExitCode, time::Instant};

use serde_json::json;
use symbia_workers::assistants::{Replayed, replay};

use crate::{Ended, config::Config, exit, opened::Opened, roles};

/// Runs the subcommand.
pub async fn run(config: &Config, run_id: &str) -> Ended {
    let began = Instant::now();
    let replayed = Opened::with(config, async |open| {
        let secrets = roles::secrets(&open.home, &open.house).await?;
        Ok(replay(&open.house.client, &open.house.keys, &secrets, run_id).await?)
    })
    .await?;
    print(config, &replayed, began);
    Ok(ExitCode::from(if replayed.replay.divergences.is_empty() { 0 } else { exit::FOUND }))
}

fn print(config: &Config, replayed: &Replayed, began: Instant) {
    let Replayed { started, tenant, replay, completions } = replayed;
    let rule = started.rule.as_ref().map_or("none", |rule| rule.name.as_str());
    if config.json {
        let divergence = |d: &symbia_commands::assistants::replay::Divergence| json!({ "what": d.what, "recorded": d.recorded, "decided": d.decided });
        let value = json!({
            "runId": started.rule_run_id,
            "orgId": tenant,
            "conversationId": started.conversation_id,
            "assistant": started.assistant_key,
            "rule": rule,
            "decisions": { "same": replay.same, "outside": replay.outside },
            "effects": { "same": replay.effects },
            "divergences": replay.divergences.iter().map(divergence).collect::<Vec<_>>(),
            "modelCalls": 0,
            "recordedModelCalls": completions,
            "identical": replay.divergences.is_empty(),
        });
        println!("{value}");
        return;
    }
    println!("run {} in organization {tenant}, conversation {}", started.rule_run_id, started.conversation_id);
    println!("  assistant '{}' ({}), rule '{rule}'", started.assistant_key, started.award_reason);
    println!("  decisions   {} same, {} caused from outside", replay.same, replay.outside);
    println!("  effects     {} same (messages and prompts, by digest)", replay.effects);
    println!("  0 model calls; {completions} when it was recorded");
    for d in &replay.divergences {
        println!("  DIVERGED    {}\n    recorded  {}\n    decided   {}", d.what, d.recorded, d.decided);
    }
    let verdict = if replay.divergences.is_empty() { "identical" } else { "NOT identical" };
    println!("{verdict}; {} ms", began.elapsed().as_millis());
}
