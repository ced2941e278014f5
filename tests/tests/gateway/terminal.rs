//! `symbia llm routes`, `eval` and `usage`, as somebody at a terminal uses them.

use std::fs;

use anyhow::ensure;
use serde_json::Value;
use symbia_tests::binary::{Said, text, until};

use crate::{Tested, stage::Stage};

struct Terminal<'s> {
    stage: &'s Stage,
    home: String,
}

impl<'s> Terminal<'s> {
    fn open(stage: &'s Stage, name: &str) -> anyhow::Result<Self> {
        let home = stage.house.file(&format!("home-{name}"));
        fs::create_dir(&home)?;
        let terminal = Terminal { stage, home: text(&home).to_owned() };
        let password = stage.house.file(&format!("password-{name}"));
        fs::write(&password, format!("{name}'s password"))?;
        let email = format!("{name}@example.test");
        let login =
            ["login", "--email", email.as_str(), "--password-file", text(&password), "--identity-url", &stage.identity];
        stage.house.run_with(&login, &[("HOME", terminal.home.as_str())])?.expect(0)?;
        Ok(terminal)
    }

    fn says(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        let at = ["--identity-url", self.stage.identity.as_str(), "--integrations-url", &self.stage.gateway];
        let arguments = [&["llm"], arguments, &at].concat();
        self.stage.house.run_with(&arguments, &[("HOME", self.home.as_str())])
    }

    fn does(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        self.says(arguments)?.expect(0)?.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_evaluations_are_worked_on_from_the_terminal() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    stage.register("bob").await?;
    let (at_adas, at_bobs) = (Terminal::open(&stage, "ada")?, Terminal::open(&stage, "bob")?);

    let limited = "openai/fake,weight=2,timeoutMs=20000,maxRpm=60,maxConcurrency=4";
    let set = ["routes", "set", "smart", limited, "anthropic/claude-fake", "--strategy", "least-busy"];
    let set = at_adas.does(&[&set[..], &["--on", "timeout=openai/second", "--on", "timeout=openai/third"]].concat())?;
    ensure!(set["version"] == 1 && set["targets"][0]["maxConcurrency"] == 4, "{set}");
    ensure!(set["fallbacks"][0]["targets"].as_array().is_some_and(|targets| targets.len() == 2), "{set}");
    let listed = at_adas.does(&["routes", "list"])?;
    ensure!(
        listed[0]["alias"] == "smart" && at_bobs.does(&["routes", "list"])? == Value::Array(Vec::new()),
        "{listed}"
    );
    at_bobs.says(&["routes", "remove", "smart"])?.expect(4)?;
    at_bobs.says(&["routes", "list", "--org", &ada.org])?.expect(4)?;
    at_adas.says(&["routes", "set", "smart", "nobody/x"])?.expect(4)?;
    at_adas.says(&["routes", "set", "smart", "openai/x,luck=1"])?.expect(1)?;
    ensure!(at_adas.does(&["routes", "remove", "smart"])?["removed"] == "smart");
    ensure!(at_adas.does(&["routes", "list"])? == Value::Array(Vec::new()));

    let benchmarks = at_adas.does(&["eval", "benchmarks", "--task", "routing"])?;
    ensure!(benchmarks["summary"]["total"] == 2, "{benchmarks}");
    let run = ["eval", "run", "openai/clever", "routing.intent-classification", "--case", "refund", "--seed", "7"];
    let ran = at_adas.does(&run)?;
    ensure!(ran["status"] == "completed" && ran["overallScore"] == 1.0 && ran["runConfig"]["seed"] == 7, "{ran}");
    let id = ran["id"].as_str().unwrap_or_default();
    let shown = at_adas.does(&["eval", "show", id])?;
    ensure!(shown["testCaseResults"][0]["output"]["content"] == "billing", "{shown}");
    let listed = at_adas.does(&["eval", "list", "--model", "openai/clever", "--status", "completed"])?;
    ensure!(listed["count"] == 1 && listed["evaluations"][0]["id"] == id, "{listed}");
    ensure!(at_adas.does(&["eval", "list", "--model", "anthropic"])?["count"] == 0);
    at_bobs.says(&["eval", "show", id])?.expect(4)?;
    at_bobs.says(&["eval", "cancel", id])?.expect(4)?;
    let summed = || async { Ok(at_adas.does(&["eval", "score", "routing"])?["modelsProcessed"] == 1) };
    until("it is summed up", summed).await?;
    let best = at_adas.does(&["eval", "recommend", "routing", "--min-quality", "60"])?;
    ensure!(best["recommendations"][0]["modelId"] == "clever", "{best}");
    let none = at_adas.does(&["eval", "recommend", "routing", "--exclude-provider", "openai"])?;
    ensure!(none["recommendations"] == Value::Array(Vec::new()), "{none}");
    let nightly =
        ["eval", "schedule", "nightly", "openai/clever", "routing.intent-classification", "--cron", "0 3 * * *"];
    ensure!(at_adas.does(&nightly)?["nextRunAt"].as_str().is_some_and(|at| at.contains("T03:00:00")));
    ensure!(at_adas.does(&["eval", "schedules"])?[0]["name"] == "nightly");
    at_bobs.says(&["eval", "unschedule", "nightly"])?.expect(4)?;
    at_adas.does(&["eval", "unschedule", "nightly"])?;
    at_adas.says(&["eval", "run", "openai", "routing.intent-classification"])?.expect(1)?;
    at_adas.says(&["eval", "run", "nobody/x", "routing.intent-classification"])?.expect(4)?;

    // Under the name that the provider answers with.
    let used = || async {
        let used = at_adas.does(&["usage", "--model", "openai/fake-2026", "--days", "1"])?;
        Ok(used["byModel"][0]["model"] == "fake-2026" && used["summary"]["totalRequests"] == 1)
    };
    until("what was asked is counted", used).await?;
    let others = at_adas.does(&["usage", "--by", "key", "--model", "openai/another"])?;
    ensure!(others["summary"]["totalRequests"] == 0 && others["byKey"] == Value::Array(Vec::new()), "{others}");
    ensure!(at_bobs.does(&["usage"])?["summary"]["totalRequests"] == 0, "what another organization used is seen");
    at_bobs.says(&["usage", "--org", &ada.org])?.expect(4)?;
    at_adas.says(&["usage", "--days", "0"])?.expect(4)?;
    at_adas.says(&["usage", "--by", "weather"])?.expect(2)?;
    Ok(())
}
