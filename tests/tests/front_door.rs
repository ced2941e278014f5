//! `symbia up`: the first run, the next, the end, and a crash.
#![allow(missing_docs, reason = "tests")]

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, Mark, text, until};

type Tested = anyhow::Result<()>;

const PASSWORD: &str = "the first password";
/// On a busy machine and without optimization; the benchmark holds the real figure.
const QUICKLY: Duration = Duration::from_secs(15);

async fn sign_in(ready: &Value) -> anyhow::Result<Value> {
    let identity = ready["services"]["identity"].as_str().context("no address")?;
    let http = reqwest::Client::new();
    let body = json!({ "email": "ada@example.test", "password": PASSWORD });
    // The first super admin is created after the ready line.
    until("somebody can sign in", || async {
        Ok(http.post(format!("{identity}/api/auth/login")).json(&body).send().await?.status() == 200)
    })
    .await?;
    let signed_in: Value = http.post(format!("{identity}/api/auth/login")).json(&body).send().await?.json().await?;
    let token = signed_in["token"].as_str().context("no token")?;
    Ok(http.get(format!("{identity}/api/auth/me")).bearer_auth(token).send().await?.error_for_status()?.json().await?)
}

async fn nothing_runs(mark: &Mark) -> Tested {
    until("every process has ended", || async { Ok(mark.processes()?.is_empty()) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_makes_an_admin_and_each_later_one_finds_everything() -> Tested {
    let mut house = Installation::new()?;
    let mark = Mark::new();
    let password = house.file("password");
    fs::write(&password, format!("{PASSWORD}\n"))?;
    let admin = [
        "--admin-name",
        "Ada",
        "--admin-email",
        "ada@example.test",
        "--admin-org",
        "Analytical",
        "--admin-password-file",
    ];
    let admin = [&admin[..], &[text(&password)]].concat();
    let ready = house.start_with(&admin, &[mark.variable()])?;
    let first = sign_in(&ready).await?;
    ensure!(first["user"]["isSuperAdmin"] == true && first["organizations"][0]["name"] == "Analytical", "{first}");
    house.stop()?;
    let left = mark.processes()?;
    ensure!(left.is_empty(), "after SIGTERM still running: {left:?}");

    let began = Instant::now();
    let ready = house.start_with(&[], &[mark.variable()])?;
    ensure!(began.elapsed() < QUICKLY, "the second start took {:?}", began.elapsed());
    ensure!(sign_in(&ready).await?["user"]["id"] == first["user"]["id"]);

    // A crash: the servers end with it, or the next start ends them.
    house.kill()?;
    let ready = house.start_with(&[], &[mark.variable()])?;
    ensure!(sign_in(&ready).await?["user"]["id"] == first["user"]["id"]);
    house.run(&["audit", "verify"])?.expect(0)?;
    let servers = mark.processes()?;
    let of = |name: &str| servers.iter().filter(|line| line.contains(name)).count();
    ensure!(of("nats-server.conf") == 1, "the broker of the crashed process lives on: {servers:?}");
    house.stop()?;
    nothing_runs(&mark).await
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_flags_that_do_not_suffice_end_in_a_clear_error() -> Tested {
    let house = Installation::new()?;
    let mark = Mark::new();
    let offset = symbia_tests::binary::free_offset()?.to_string();
    let up = ["up", "--nats-port", "0", "--port-offset", &offset, "--admin-name", "Ada"];
    let said = house.run_with(&up, &[mark.variable()])?.expect(1)?;
    ensure!(said.err.contains("--admin-password-file") && said.err.contains("go together"), "{}", said.err);
    nothing_runs(&mark).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_nothing_is_left_behind() -> Tested {
    let mut house = Installation::new()?;
    let mark = Mark::new();
    let scratch = house.file("scratch");
    fs::create_dir(&scratch)?;
    house.start_with(&["--memory", "--skip-admin"], &[("TMPDIR", text(&scratch)), mark.variable()])?;
    ensure!(fs::read_dir(&scratch)?.count() > 0, "its data is elsewhere");
    house.stop()?;
    ensure!(fs::read_dir(&scratch)?.count() == 0, "the temporary directory is left behind");
    ensure!(!house.data().exists(), "a data directory was made");
    nothing_runs(&mark).await
}
