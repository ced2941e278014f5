//! A full disk under the broker.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::{apart::Apart, binary::until, cluster::TestServers};
use tempfile::TempDir;

use crate::Tested;

/// A small file system in memory, gone with the value.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where it may not be mounted.
    fn mount() -> anyhow::Result<Option<Self>> {
        let dir = TempDir::with_prefix("symbia-disk-")?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=0711", "tmpfs"]).arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        Ok(mounted.then(|| SmallDisk(dir)))
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.0.path().join("filler");
        let mut file = File::create(&path)?;
        for size in [64 * 1024, 512] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(path)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_puts_writes_off_and_they_go_on_when_there_is_space() -> Tested {
    let Some(disk) = SmallDisk::mount()? else {
        println!("SKIPPED: a small disk can be mounted by root only");
        return Ok(());
    };
    let apart = Apart::on(TestServers::with_broker_in(&disk.path().join("nats")).await?)?;
    until("the API is ready", || async { Ok(apart.readiness().await == Some(200)) }).await?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
    let body = json!({ "email": "ada@example.test", "password": "ada's password", "name": "Ada", "orgName": "Ada" });
    let registered = http.post(format!("{}/api/auth/register", apart.api())).json(&body).send().await?;
    let token = registered.error_for_status()?.json::<Value>().await?["token"].as_str().unwrap_or_default().to_owned();
    let found = |key: &'static str, name: &str| {
        let request = http.post(format!("{}/api/orgs", apart.api())).bearer_auth(&token);
        request.header("idempotency-key", key).json(&json!({ "name": name })).send()
    };
    ensure!(found("before", "Before").await?.status() == 200);

    let filler = disk.fill()?;
    let answer = found("full", "Full").await?;
    let (status, retry) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
    let said: Value = answer.json().await?;
    // Either it could be queued and waits, or it is refused for now; never done, never an internal error.
    ensure!((status == 202 && said["commandId"].is_string()) || (status == 503 && retry), "{status} {said}");

    std::fs::remove_file(filler)?;
    until("the same request is done", || async { Ok(found("full", "Full").await?.status() == 200) }).await?;
    until("the API is ready", || async { Ok(apart.readiness().await == Some(200)) }).await?;
    let orgs = http.get(format!("{}/api/orgs", apart.api())).bearer_auth(&token).send().await?.json::<Value>().await?;
    let names: Vec<&str> =
        orgs["organizations"].as_array().into_iter().flatten().filter_map(|o| o["name"].as_str()).collect();
    ensure!(names == ["Ada", "Before", "Full"], "{names:?}");
    let verified = apart.run(&["projection", "verify"])?;
    ensure!(verified.contains("identical"), "{verified}");
    apart.run(&["audit", "verify"])?;
    Ok(())
}
