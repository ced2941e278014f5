//! The `symbia` process: memory when idle, and how soon it is ready. Rows that appear when its release build is there.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    Bench, ground,
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 2] = ["up_ready", "idle_memory"];
/// Past these, memory that only the start needed has had time to be given back.
const IDLE: Duration = Duration::from_secs(3);
/// Added to the port of every service.
const PORT_OFFSET: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the processor times in /proc (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let Some(binary) = binary()? else { return Ok(()) };
    let dir = ground::directory()?;
    // The first start makes keys, streams, cluster and tables.
    let (first, _) = up(&binary, &dir).await?;
    stop(first).await?;
    let (process, ready) = up(&binary, &dir).await?;
    push(bench, ROWS[0], "`symbia up`, warm, to ready", ready.as_secs_f64(), "s", 2.0);
    tokio::time::sleep(IDLE).await;
    let megabytes = resident_kilobytes(process.id().context("it has ended")?)? / 1e3;
    push(bench, ROWS[1], "memory of the idle `symbia` process", megabytes, "MB", 80.0);
    stop(process).await
}

fn binary() -> Result<Option<PathBuf>> {
    let binary = std::env::current_exe()?.with_file_name("symbia");
    if !binary.exists() {
        eprint!("(no {}: build it with `cargo build --release`) ", binary.display());
        return Ok(None);
    }
    Ok(Some(binary))
}

/// A running `symbia up`, for the rows of other groups.
pub struct Symbia {
    process: Child,
    _dir: TempDir,
}

impl Symbia {
    /// Starts it, with these variables besides; `None` when there is no release build.
    pub async fn start_with(variables: &[(&str, &str)]) -> Result<Option<Self>> {
        let Some(binary) = binary()? else { return Ok(None) };
        let dir = ground::directory()?;
        let (process, _) = up_with(&binary, &dir, variables).await?;
        Ok(Some(Symbia { process, _dir: dir }))
    }

    /// Where the service of a port is served.
    pub fn base(&self, port: u16) -> String {
        format!("http://127.0.0.1:{}", port + PORT_OFFSET)
    }

    /// Resident memory of the process.
    pub fn megabytes(&self) -> Result<f64> {
        Ok(resident_kilobytes(self.process.id().context("it has ended")?)? / 1e3)
    }

    /// Processor time that it and all that it started have taken.
    pub fn processor(&self) -> Result<Duration> {
        let mut parents = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // One may have ended meanwhile.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            parents.extend(stat_of(&stat).map(|(parent, ticks)| (pid, parent, ticks)));
        }
        let (mut ours, mut ticks, mut next) = (vec![self.process.id().context("it has ended")?], 0, 0);
        while let Some(pid) = ours.get(next).copied() {
            ours.extend(parents.iter().filter(|(_, parent, _)| *parent == pid).map(|(pid, ..)| *pid));
            ticks += parents.iter().filter(|(of, ..)| *of == pid).map(|(.., ticks)| ticks).sum::<u64>();
            next += 1;
        }
        Ok(TICK * u32::try_from(ticks)?)
    }

    /// Ends it.
    pub async fn stop(self) -> Result<()> {
        stop(self.process).await
    }
}

/// Starts it and waits for the line that says that it is ready.
async fn up(binary: &PathBuf, dir: &TempDir) -> Result<(Child, Duration)> {
    up_with(binary, dir, &[]).await
}

async fn up_with(binary: &PathBuf, dir: &TempDir, variables: &[(&str, &str)]) -> Result<(Child, Duration)> {
    let began = Instant::now();
    let mut process = Command::new(binary)
        .args(["up", "--json", "--skip-admin", "--port-offset", &PORT_OFFSET.to_string(), "--data-dir"])
        .arg(dir.path().join("data"))
        .env_remove("SYMBIA_NATS_URL")
        .env_remove("DATABASE_URL")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(process.stdout.take().context("no output")?).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("\"ready\":true") {
                return Ok(());
            }
        }
        anyhow::bail!("`symbia up` ended before it was ready; run it by hand to see why")
    };
    tokio::time::timeout(PATIENCE, ready).await.context("`symbia up` was not ready in time")??;
    Ok((process, began.elapsed()))
}

async fn stop(mut process: Child) -> Result<()> {
    let pid = process.id().context("it has ended")?;
    let told = Command::new("kill").arg(pid.to_string()).status().await?;
    ensure!(told.success(), "`symbia up` has ended by itself");
    tokio::time::timeout(PATIENCE, process.wait()).await.context("`symbia up` did not stop")??;
    Ok(())
}

// Its parent, and the ticks in user and kernel mode; what stands before the last parenthesis is the program's name.
fn stat_of(stat: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some((u32::try_from(number(1)?).ok()?, number(11)? + number(12)?))
}

fn resident_kilobytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn push(bench: &mut Bench, name: &'static str, what: &str, ours: f64, unit: &'static str, most: f64) {
    let (what, target) = (what.to_owned(), Target::AtMost(most));
    bench.table.push(Row { name, what, ours, raw: None, ratio: None, unit, target });
}
