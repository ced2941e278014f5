//! The PostgreSQL that we run: it comes back by itself with its data, and leaves nothing behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use symbia_nats::process::Version;
use symbia_projections::server::{DatabaseServer, DatabaseServerError, DatabaseServerOptions};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A directory that the account which runs PostgreSQL for root can enter.
fn open_dir() -> std::io::Result<TempDir> {
    let dir = TempDir::new()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("waited too long: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The processes whose working directory is this cluster: the server and all its backends.
fn processes_in(cluster: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == cluster)).collect()
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port_with_its_data() -> Outcome {
    let dir = open_dir()?;
    let options = DatabaseServerOptions::new(dir.path());
    let server = DatabaseServer::start(options.clone()).await?;
    let url = server.url();
    let mut db = PgConnection::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE kept (what text); INSERT INTO kept VALUES ('ÄÖ')").execute(&mut db).await?;
    let lower: String = sqlx::query_scalar("SELECT lower(what) FROM kept").fetch_one(&mut db).await?;
    assert_eq!(lower, "äö");

    let first = server.pid();
    server.kill();
    until("the server starts again", || server.restarts() >= 1 && server.pid().is_some_and(|pid| Some(pid) != first))
        .await?;
    server.ready().await?;
    assert_eq!(server.url(), url);
    let mut db = PgConnection::connect(&url).await?;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut db).await?;
    assert_eq!(kept, 1);

    let cluster = dir.path().canonicalize()?.join("postgres");
    assert!(!processes_in(&cluster).is_empty());
    server.stop().await;
    assert_eq!(processes_in(&cluster), Vec::<PathBuf>::new());
    drop(server);

    let server = DatabaseServer::start(options.clone()).await?;
    let mut db = PgConnection::connect(&server.url()).await?;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut db).await?;
    assert_eq!(kept, 1);
    let again = DatabaseServer::start(options).await;
    assert!(matches!(again, Err(DatabaseServerError::AlreadyRunning(_))));

    drop(server);
    until("the backends are gone", || processes_in(&cluster).is_empty()).await
}

#[tokio::test]
async fn only_the_password_opens_the_database_and_only_we_can_read_it() -> Outcome {
    let dir = open_dir()?;
    let server = DatabaseServer::start(DatabaseServerOptions::new(dir.path())).await?;
    let file = dir.path().join("postgres.password");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let password = fs::read_to_string(file)?;
    assert!(server.url().contains(&password));
    let wrong = PgConnection::connect(&server.url().replace(&password, "guess")).await;
    let code = wrong.err().and_then(|error| error.as_database_error()?.code().map(|code| code.into_owned()));
    assert_eq!(code.as_deref(), Some("28P01"));
    Ok(())
}

/// The parent half of the next test: this test binary runs itself, and only then does this do anything.
#[tokio::test]
async fn start_a_server_and_wait_to_be_killed() -> Outcome {
    let Ok(dir) = std::env::var("SYMBIA_TEST_DATABASE_DIR") else { return Ok(()) };
    let _server = DatabaseServer::start(DatabaseServerOptions::new(&dir)).await?;
    fs::write(Path::new(&dir).join("ready"), "")?;
    std::future::pending().await
}

#[tokio::test]
async fn the_server_dies_when_its_process_is_killed_and_starts_again_for_the_next() -> Outcome {
    let dir = open_dir()?;
    let mut process = Command::new(std::env::current_exe()?)
        .args(["--exact", "start_a_server_and_wait_to_be_killed"])
        .env("SYMBIA_TEST_DATABASE_DIR", dir.path())
        .stdout(Stdio::null())
        .spawn()?;
    let ready = dir.path().join("ready");
    let waited = until("the server is ready", || ready.exists()).await;
    process.kill()?;
    process.wait()?;
    waited?;
    let cluster = dir.path().canonicalize()?.join("postgres");
    until("the server is gone", || processes_in(&cluster).is_empty()).await?;
    DatabaseServer::start(DatabaseServerOptions::new(dir.path())).await?.ready().await?;
    Ok(())
}

/// A checkout below `/root`: the account that runs PostgreSQL for root cannot get there.
#[tokio::test]
async fn root_keeps_the_cluster_elsewhere_when_the_data_directory_is_closed() -> Outcome {
    let dir = TempDir::new()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700))?;
    let options = DatabaseServerOptions::new(dir.path().join("data"));
    let server = DatabaseServer::start(options.clone()).await?;
    PgConnection::connect(&server.url()).await?;
    let location = options.data_dir.join("postgres.location");
    if fs::metadata(dir.path())?.uid() != 0 {
        assert!(!location.exists(), "only root needs another place");
        return Ok(());
    }
    let place = PathBuf::from(fs::read_to_string(&location)?);
    assert!(place.join("postgres/PG_VERSION").exists());

    // A data directory that was removed and made again starts anew, in spite of the cluster that it left.
    drop(server);
    fs::remove_dir_all(&options.data_dir)?;
    let server = DatabaseServer::start(options).await?;
    PgConnection::connect(&server.url()).await?;
    drop(server);
    Ok(fs::remove_dir_all(place)?)
}

#[tokio::test]
async fn an_occupied_port_is_named() -> Outcome {
    let dir = open_dir()?;
    let occupant = TcpListener::bind("127.0.0.1:0")?;
    let port = occupant.local_addr()?.port();
    let started = DatabaseServer::start(DatabaseServerOptions { port, ..DatabaseServerOptions::new(dir.path()) }).await;
    assert!(matches!(started, Err(DatabaseServerError::PortInUse(named)) if named == port));
    Ok(())
}

#[tokio::test]
async fn an_old_server_is_refused_by_name_and_version() -> Outcome {
    let dir = open_dir()?;
    for name in ["postgres", "initdb"] {
        let file = dir.path().join(name);
        fs::write(&file, "#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    let bin_dir = Some(dir.path().to_owned());
    let options = DatabaseServerOptions { bin_dir, ..DatabaseServerOptions::new(dir.path().join("data")) };
    let Err(error) = DatabaseServer::start(options).await else { return Err("started an old server".into()) };
    assert!(matches!(&error, DatabaseServerError::TooOld(found) if found.version == Version(13, 9, 0)), "{error}");
    Ok(())
}
