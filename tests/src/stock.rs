//! Stock clients: scripts that use `socket.io-client` and `openai` from npm.
//!
//! `SYMBIA_TEST_NODE_MODULES` names a directory that has them; without one, they are installed once under the target directory.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/socketio");
const PACKAGES: [&str; 2] = ["socket.io-client", "openai"];

fn modules() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("SYMBIA_TEST_NODE_MODULES") {
        return Ok(given.into());
    }
    let test = std::env::current_exe()?;
    let place = test.ancestors().nth(3).context("a test runs from a target directory")?.join("socketio");
    let modules = place.join("node_modules");
    fs::create_dir_all(&place)?;
    // Tests run in processes of their own.
    let lock = File::create(place.join("lock"))?;
    lock.lock()?;
    if PACKAGES.iter().any(|package| !modules.join(package).exists()) {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(Path::new(FILES).join(file), place.join(file))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&place);
        let installed = npm.output().context("npm is needed: scripts/prepare.sh tests installs it")?;
        ensure!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    }
    Ok(modules)
}

/// Runs a script of `tests/socketio` and gives the JSON that it prints.
///
/// # Errors
/// Node or the packages are missing, or the script fails: what it printed.
pub async fn run(script: &str, variables: &[(&str, &str)]) -> Result<Value> {
    let mut node = tokio::process::Command::new("node");
    node.arg(Path::new(FILES).join(script)).env("NODE_PATH", modules()?).kill_on_drop(true);
    let output = node.envs(variables.iter().copied()).output().await;
    let output = output.context("node is needed: scripts/prepare.sh tests installs it")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{script} {variables:?}: {out}{err}");
    Ok(serde_json::from_str(&out)?)
}
