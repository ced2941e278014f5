//! Node.js with a stock client in it.
//!
//! `SYMBIA_TEST_NODE_MODULES` names a directory in which `openai` is installed; without it, one is made once under the target
//! directory.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, ensure};

use crate::python::run;

/// The newest one that does with Node.js 20.
const CLIENT: &str = "openai@6.30.1";

/// The directory in which a script finds the client.
pub fn directory() -> anyhow::Result<PathBuf> {
    let given = std::env::var_os("SYMBIA_TEST_NODE_MODULES").map(PathBuf::from);
    let test = std::env::current_exe()?;
    let made = || Some(test.ancestors().nth(3)?.join("node"));
    let directory = given.or_else(made).context("the test does not run from a target directory")?;
    if !directory.join("node_modules/openai").exists() {
        std::fs::create_dir_all(&directory)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
        npm.arg(&directory).arg(CLIENT);
        let otherwise = "the stock client cannot be installed: without a network, set SYMBIA_TEST_NODE_MODULES to a directory \
                         that has it";
        run(&mut npm, otherwise)?;
    }
    ensure!(directory.join("node_modules/openai").exists(), "{} has no openai", directory.display());
    Ok(directory)
}
