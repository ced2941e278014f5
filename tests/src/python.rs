//! An interpreter with stock clients in it.
//!
//! `SYMBIA_TEST_PYTHON` names one that has the packages of `scripts/requirements/tests.txt`; without it, a virtual environment
//! is made once under the target directory.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, bail, ensure};

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/requirements/tests.txt");
const NEEDS: &str = "import nats, jwt, cryptography, openai, anthropic, ollama";

/// The interpreter.
pub fn python() -> anyhow::Result<PathBuf> {
    let given = std::env::var_os("SYMBIA_TEST_PYTHON").map(PathBuf::from);
    let has = |python: &Path| Command::new(python).args(["-c", NEEDS]).output().is_ok_and(|o| o.status.success());
    let first = given.clone().unwrap_or_else(|| "python3".into());
    if has(&first) {
        return Ok(first);
    }
    if let Some(given) = given {
        let given = given.display();
        bail!("SYMBIA_TEST_PYTHON={given} lacks a package: `{given} -m pip install -r scripts/requirements/tests.txt`");
    }
    let test = std::env::current_exe()?;
    let venv = test.ancestors().nth(3).context("the test does not run from a target directory")?.join("python");
    let python = venv.join("bin/python");
    if !has(&python) {
        run(
            Command::new("python3").args(["-m", "venv"]).arg(&venv),
            "a virtual environment cannot be made (is python3-venv installed?)",
        )?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]);
        let otherwise = "the stock clients cannot be installed: without a network, set SYMBIA_TEST_PYTHON to an interpreter \
                         that has them";
        run(&mut pip, otherwise)?;
    }
    Ok(python)
}

/// What a command printed, when it succeeded.
pub fn run(command: &mut Command, otherwise: &str) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| otherwise.to_owned())?;
    ensure!(
        status.success(),
        "{otherwise}: {status}\n{}\n{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    Ok(String::from_utf8(stdout)?)
}
