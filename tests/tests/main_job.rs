//! The main job, from an empty directory, without network: start, first admin, conversation, question, streamed answer
//! stored once, and the proof of it all from the log.

use anyhow::Context;
use serde_json::{Value, json};
use symbia_tests::binary::Installation;

type Tested = anyhow::Result<()>;

const PASSWORD: &str = "a password of eight and more";

fn ask(house: &Installation, urls: &[String], question: &str) -> anyhow::Result<Value> {
    let password = house.file("password");
    let mut arguments = vec!["chat", question, "--email", "ada@example.test", "--password-file"];
    let password = password.to_str().context("a path")?;
    arguments.push(password);
    arguments.extend(urls.iter().map(String::as_str));
    let home = house.file("");
    house.run_with(&arguments, &[("HOME", home.to_str().context("a path")?)])?.expect(0)?.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_weights_the_whole_of_it_runs_with_the_model_that_echoes() -> Tested {
    let mut house = Installation::new()?;
    let password = house.file("password");
    std::fs::write(&password, PASSWORD)?;
    let password = password.to_str().context("a path")?;
    let admin = ["--admin-name", "Ada", "--admin-email", "ada@example.test", "--admin-org", "Acme"];
    let arguments = [&admin[..], &["--admin-password-file", password]].concat();
    let ready = house.start_with(&arguments, &[("MODELS_STUB", "true")])?;
    let service = |name: &str| ready["services"][name].as_str().map(str::to_owned).context("no address");
    let urls = ["--identity-url".to_owned(), service("identity")?, "--messaging-url".to_owned(), service("messaging")?];
    let echoed = ask(&house, &urls, "what is 2+2?")?;
    assert_eq!((&echoed["status"], &echoed["messages"][0]["content"]), (&json!("completed"), &json!("what is 2+2?")));
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_once_and_every_step_is_proved() -> Tested {
    let mut house = Installation::new()?;
    std::fs::write(house.file("password"), PASSWORD)?;
    let password = house.file("password");
    let admin =
        ["--admin-name", "Ada", "--admin-email", "ada@example.test", "--admin-org", "Acme", "--admin-password-file"];
    let mut arguments = admin.to_vec();
    arguments.push(password.to_str().context("a path")?);
    let ready = house.start_with(&arguments, &[])?;
    let service = |name: &str| ready["services"][name].as_str().map(str::to_owned).context("no address");
    let urls = ["--identity-url".to_owned(), service("identity")?, "--messaging-url".to_owned(), service("messaging")?];

    let template = ask(&house, &urls, "help")?;
    assert_eq!(template["status"], "completed", "{template}");
    let model = ask(&house, &urls, "what is 2+2?")?;
    assert_eq!(model["status"], "completed", "{model}");
    let answers = model["messages"].as_array().context("no messages")?;
    assert_eq!(answers.len(), 1, "one answer: {model}");
    if cfg!(feature = "llama") {
        assert_eq!(answers[0]["content"], "2 + 2 = 4", "{model}");
    }

    // Everything happened in this one process, and it has counted.
    let shown = reqwest::get(format!("{}/metrics", service("messaging")?)).await?.error_for_status()?.text().await?;
    for counted in [
        r#"symbia_command_duration_seconds_count{aggregate="messaging/conversation",outcome="accepted"}"#,
        r#"symbia_reactor_duration_seconds_count{outcome="handled",reactor="rule-engine"}"#,
        r#"symbia_projection_events_total{projection="messaging"}"#,
        r#"http_route="/api/conversations/{id}/messages""#,
        "symbia_append_group_size_count",
        "symbia_commands_taken_total",
    ] {
        assert!(shown.contains(counted), "{counted} is missing in\n{shown}");
    }

    let conversation = model["conversationId"].as_str().context("no conversation")?;
    let story = house.run(&["log", "show", "--conversation", conversation])?.expect(0)?;
    assert!(story.out.contains("2+2") || story.out.contains("2 + 2"), "{}", story.out);
    let audit = house.run(&["audit", "verify"])?.expect(0)?.json()?;
    assert_eq!(audit["findings"], json!([]), "{audit}");
    house.run(&["projection", "verify"])?.expect(0)?;
    let replay = house.run(&["replay"])?.expect(0)?.json()?;
    assert_eq!((&replay["equalsLive"], &replay["runs"], &replay["modelCalls"]), (&json!(true), &json!(2), &json!(0)));
    let run = model["runId"].as_str().context("no run")?;
    let again = house.run(&["replay", "run", run])?.expect(0)?.json()?;
    assert_eq!(again["modelCalls"], 0, "{again}");
    house.stop()
}
