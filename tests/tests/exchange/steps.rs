//! kill -9 of each at every step.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use symbia_events::{Event, Service};
use symbia_tests::apart::Plan;

use crate::{
    Tested,
    stage::{Answers, SCRIPTED, STEPS, Stage, Step, shows},
};

const QUESTION: &str = "what is 2+2?";

/// Each role as a process.
pub const PLAN: &Plan = &[
    ("command", &["work", "--roles", "command"]),
    ("engine", &["work", "--roles", "rule-engine"]),
    ("router", &["work", "--roles", "llm-router"]),
    #[cfg(feature = "llama")]
    ("inference", &["work", "--roles", "inference"]),
    ("projector", &["project"]),
    ("API", &["serve", "--services", "identity,messaging,assistants"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Role(&'static str),
    Broker,
    Database,
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reply_whichever_worker_is_killed_at_whichever_step() -> Tested {
    let mut stage = Stage::open(PLAN, &[]).await?;
    let mut talks = Vec::new();
    for role in ["engine", "router", "command"] {
        talks.extend(at_every_step(&mut stage, Victim::Role(role), SCRIPTED).await?);
    }
    #[cfg(feature = "llama")]
    talks.extend(at_every_step(&mut stage, Victim::Role("inference"), crate::stage::LOCAL).await?);
    one_reply_each(&stage, &talks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reply_at_whichever_step_the_broker_is_killed() -> Tested {
    let mut stage = Stage::open(PLAN, &[]).await?;
    let talks = at_every_step(&mut stage, Victim::Broker, SCRIPTED).await?;
    one_reply_each(&stage, &talks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reply_and_nothing_forgotten_at_whichever_step_the_database_or_its_readers_are_killed() -> Tested {
    let mut stage = Stage::open(PLAN, &[]).await?;
    let mut talks = Vec::new();
    for victim in [Victim::Role("projector"), Victim::Role("API"), Victim::Database] {
        talks.extend(at_every_step(&mut stage, victim, SCRIPTED).await?);
    }
    one_reply_each(&stage, &talks).await?;
    // Ends with 3, and not successfully, when a table differs from what the log says.
    stage.apart.run(&["projection", "verify"])?;
    stage.apart.run(&["audit", "verify"])?;
    Ok(())
}

// An exchange for each step, the victim killed and started again at that step. The next one begins at once: what the kill
// left undone is taken up meanwhile.
async fn at_every_step(stage: &mut Stage, victim: Victim, answers: Answers) -> anyhow::Result<Vec<String>> {
    let began = Instant::now();
    let mut talks = Vec::new();
    for step in STEPS {
        let what = || format!("{victim:?} killed at {step:?}");
        talks.push(at_step(stage, victim, step, answers).await.with_context(what)?);
    }
    for (step, talk) in STEPS.iter().zip(&talks) {
        let what = || format!("{victim:?} killed at {step:?}, conversation {talk}\n{}", stage.apart.logs());
        let messages = shows(&stage.rest, talk, 2).await.with_context(what)?;
        ensure!(messages[1]["content"] == answers.text, "{}: {messages:?}", what());
    }
    println!("{victim:?} at {} steps: {:?}", STEPS.len(), began.elapsed());
    Ok(talks)
}

async fn at_step(stage: &mut Stage, victim: Victim, step: Step, answers: Answers) -> anyhow::Result<String> {
    let talk = stage.rest.talk(answers.assistant).await?;
    let mut watch = stage.watch(&talk).await?;
    let asked = tokio::spawn(stage.rest.clone().say(talk.clone(), QUESTION));
    watch.until(step, &stage.rest).await?;
    match victim {
        Victim::Role(name) => stage.restart(name)?,
        // These have a supervisor of their own.
        Victim::Broker => stage.apart.servers.broker.kill(),
        Victim::Database => stage.apart.servers.database.kill(),
    }
    if (victim, step) == (Victim::Role("router"), Step::FirstToken) {
        let reset = tokio::time::timeout(Duration::from_secs(30), watch.live("message:reset")).await;
        let reset = reset.context("readers were not told that the answer begins anew")??;
        ensure!(reset["attempt"] == 2, "{reset}");
    }
    asked.await??;
    Ok(talk)
}

// The log says so, too: one answer, one end of the run, one end of the completion.
async fn one_reply_each(stage: &Stage, talks: &[String]) -> Tested {
    let (said, runs) = (stage.log(Service::Messaging).await?, stage.log(Service::Assistants).await?);
    let completions = stage.log(Service::Integrations).await?;
    let kind = |event: &Event| event.event_type.rsplit('.').nth(1).unwrap_or_default().to_owned();
    let ends = |event: &&Arc<Event>| {
        ["completed", "failed", "cancelled"]
            .iter()
            .any(|end| kind(event) == format!("rule-run-{end}") || kind(event) == format!("completion-{end}"))
    };
    for talk in talks {
        let sent = said.iter().filter(|e| e.aggregateid == *talk && kind(e) == "message-sent").collect::<Vec<_>>();
        ensure!(sent.len() == 2, "{} messages in {talk}: {sent:?}", sent.len());
        for log in [&runs, &completions] {
            let of = log.iter().filter(|e| e.correlationid == sent[0].correlationid).filter(ends).collect::<Vec<_>>();
            ensure!(of.len() == 1, "{} ends in {talk}: {of:?}", of.len());
        }
    }
    Ok(())
}
