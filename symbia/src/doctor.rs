//! `symbia doctor`: what is missing on this machine, and how to get it.

use std::{net::TcpListener, path::PathBuf, process::ExitCode};

use serde::Serialize;
use symbia_events::Service;

use crate::{
    Ended,
    config::Config,
    connect::{Addresses, Connected},
    exit,
    home::{Home, Running},
};

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    found: String,
}

/// Where our own servers may have been installed by `scripts/prepare.sh`.
pub fn binary_dirs() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    // The servers are started in directories of their own.
    let here = std::path::absolute(".local/bin").ok();
    here.into_iter().chain(beside).collect()
}

/// Runs the checks.
pub async fn run(config: &Config) -> Ended {
    let mut findings = Vec::new();
    let mut note = |what, result: Result<String, String>| {
        let ok = result.is_ok();
        findings.push(Finding { what, ok, found: result.unwrap_or_else(|e| e) });
    };
    let home = Home::open(config);
    note("data directory", home.as_ref().map(|h| h.dir().display().to_string()).map_err(|e| format!("{e:#}")));
    if config.nats_url.is_none() {
        let found = symbia_nats::broker::find_nats_server(&binary_dirs());
        note("nats-server", found.map(|b| format!("{} {}", b.path.display(), b.version)).map_err(|e| e.to_string()));
    }
    if config.database_url.is_none() {
        let found = symbia_projections::server::find_postgres(&[]);
        note("postgresql", found.map(|b| format!("{} {}", b.path.display(), b.version)).map_err(|e| e.to_string()));
    }
    if let Ok(home) = &home {
        let ring = home.has_key_ring().then(|| home.key_ring());
        note(
            "key ring",
            match ring {
                None => Ok("made at the first start".to_owned()),
                Some(ring) => ring.map(|r| format!("{} keys", r.list().count())).map_err(|e| format!("{e:#}")),
            },
        );
        match Addresses::find(config, home) {
            Ok(addresses) => {
                let house = match home.key_ring() {
                    Ok(keys) => Connected::to(&addresses, keys.into()).await,
                    Err(error) => Err(error),
                };
                let reached = house.map(|h| format!("NATS {} and PostgreSQL answer", h.client.server_info().version));
                note("servers", reached.map_err(|e| format!("{e:#}")));
                note("durability", durability(config, home.running()).await);
            }
            Err(_) => ports(config, &mut note),
        }
    }
    note(
        "inference",
        if cfg!(feature = "llama") {
            Ok("llama.cpp is built in".to_owned())
        } else {
            Ok("built without llama.cpp: only remote providers answer".to_owned())
        },
    );
    let healthy = findings.iter().all(|f| f.ok);
    if config.json {
        println!("{}", serde_json::to_string(&findings)?);
    } else {
        for finding in &findings {
            println!("{} {:<15} {}", if finding.ok { "ok     " } else { "MISSING" }, finding.what, finding.found);
        }
    }
    Ok(ExitCode::from(if healthy { 0 } else { exit::FOUND }))
}

fn ports(config: &Config, note: &mut impl FnMut(&'static str, Result<String, String>)) {
    let taken: Vec<String> = Service::ALL
        .into_iter()
        .filter(|s| TcpListener::bind((config.host.as_str(), config.port(*s))).is_err())
        .map(|s| format!("{} ({s}; {} moves it)", config.port(s), s.port_variable()))
        .collect();
    note(
        "ports",
        if taken.is_empty() { Ok("all free".to_owned()) } else { Err(format!("taken: {}", taken.join(", "))) },
    );
}

/// Whether an external broker syncs before it acknowledges, as far as it can be known.
pub async fn durability(config: &Config, running: Option<Running>) -> Result<String, String> {
    let Some(monitor) = &config.nats_monitor else {
        return match running.filter(|_| config.nats_url.is_none()) {
            Some(up) => Ok(up.durability),
            None => Ok("unknown: set SYMBIA_NATS_MONITOR_URL to let it be checked".to_owned()),
        };
    };
    let url = format!("{}/jsz", monitor.trim_end_matches('/'));
    let fetch = async { reqwest::get(&url).await?.json::<serde_json::Value>().await };
    let jsz = fetch.await.map_err(|e| format!("{url}: {e}"))?;
    if jsz["config"]["sync_always"] == true {
        Ok("the broker syncs every write before it acknowledges".to_owned())
    } else {
        Err("the broker acknowledges before it syncs: set `sync_interval: always` in its jetstream block".to_owned())
    }
}
