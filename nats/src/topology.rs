//! The streams and buckets of the platform (DESIGN §3), created and upgraded by code.

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode,
    context::CreateStreamErrorKind,
    stream::{Config, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy, StorageType, SubjectTransform},
};
use symbia_events::Service;

/// Commands of all services, in partitions.
pub const COMMANDS: &str = "SYMBIA_CMD";
/// Message schedules.
pub const TIMERS: &str = "SYMBIA_TIMER";
/// What could not be handled.
pub const DEAD_LETTERS: &str = "SYMBIA_DLQ";
/// Long work for some workers.
pub const JOBS: &str = "SYMBIA_JOB";
/// Snapshots: a KV bucket's stream, so that it can be created without syncing each write. Deleting it costs only speed.
pub const SNAPSHOTS: &str = "KV_SYMBIA_SNAP";
/// The KV bucket of rate limits: what is lost with it is a minute's counting.
pub const LIMITS_BUCKET: &str = "SYMBIA_LIMITS";
/// The KV bucket of what is limited by the day: what is lost with it is a day's counting.
pub const DAYS_BUCKET: &str = "SYMBIA_DAYS";
/// The KV bucket of answers that may be given again, sealed: what is lost with it is asked for again.
pub const ANSWERS_BUCKET: &str = "SYMBIA_ANSWERS";
/// Longest that such an answer is kept, and how many are. Room that is set aside for them would be wanting elsewhere.
const ANSWERS_LAST: Duration = Duration::from_secs(24 * 3600);
const ANSWERS_MOST: i64 = 5_000;
/// The KV bucket of the leases of nodes.
pub const LEASES_BUCKET: &str = "SYMBIA_LEASES";
/// The KV bucket of who asks a messenger, and up to where it was asked: what is lost with it is asked for again.
pub const POLLERS_BUCKET: &str = "SYMBIA_POLLERS";
/// The KV bucket of what providers were found like: what is lost with it is found out again.
pub const PROBES_BUCKET: &str = "SYMBIA_PROBES";
/// How long that lasts: longer than between two looks.
const PROBES_LAST: Duration = Duration::from_secs(25 * 3600);
/// The KV bucket of the sessions of tools that were ended: what is lost with it can be gone on with until it is old.
pub const SESSIONS_BUCKET: &str = "SYMBIA_SESSIONS";
/// How long a session of tools lasts that nobody ends.
pub const SESSION_LASTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Files that came with messages, sealed, in parts: no log, since they go when their conversation is erased.
pub const FILES: &str = "SYMBIA_FILES";
/// How long the marker of an ended lease waits for a worker.
const MARKER_LASTS: Duration = Duration::from_secs(24 * 3600);
/// Partitions of [`COMMANDS`]. Commands of one aggregate are always in the same.
pub const PARTITIONS: u32 = 8;

/// A stream could not be brought into shape.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream}: {reason}; nats-server 2.14 or newer with JetStream is needed (`symbia doctor` checks it)")]
pub struct TopologyError {
    stream: String,
    reason: String,
}

/// Creates what is missing and updates what differs. Idempotent.
pub async fn ensure(js: &jetstream::Context, replicas: usize) -> Result<(), TopologyError> {
    for config in configs(replicas) {
        let stream = config.name.clone();
        if let Err(error) = js.create_stream(config.clone()).await {
            let exists = matches!(error.kind(), CreateStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NAME_EXIST);
            let updated = if exists {
                js.update_stream(config).await.map(|_| ()).map_err(|e| e.to_string())
            } else {
                Err(error.to_string())
            };
            updated.map_err(|reason| TopologyError { stream, reason })?;
        }
    }
    Ok(())
}

/// The configuration of every stream.
#[must_use]
pub fn configs(replicas: usize) -> Vec<Config> {
    let mut configs: Vec<Config> = Service::ALL.into_iter().map(|service| event_stream(service, replicas)).collect();
    configs.push(Config {
        retention: RetentionPolicy::WorkQueue,
        max_age: Duration::from_secs(24 * 3600),
        // A receipt is not the promise, an outcome is: the queue need not sync (DESIGN §3).
        persist_mode: Some(PersistenceMode::Async),
        subject_transform: Some(SubjectTransform {
            source: "symbia.cmd.*.*.*.*".to_owned(),
            destination: format!(
                "symbia.cmd.{{{{partition({PARTITIONS},2,3,4)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}.{{{{wildcard(4)}}}}"
            ),
        }),
        ..base(COMMANDS, "symbia.cmd.*.*.*.*", replicas)
    });
    configs.push(Config { retention: RetentionPolicy::WorkQueue, ..base(JOBS, "symbia.job.>", replicas) });
    configs.push(Config {
        allow_message_schedules: true,
        allow_message_ttl: true,
        allow_rollup: true,
        ..base(TIMERS, "symbia.timer.>", replicas)
    });
    configs
        .push(Config { max_age: Duration::from_secs(30 * 24 * 3600), ..base(DEAD_LETTERS, "symbia.dlq.>", replicas) });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..base(SNAPSHOTS, "$KV.SYMBIA_SNAP.>", replicas)
    });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_age: Duration::from_secs(15 * 60),
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..base(&format!("KV_{LIMITS_BUCKET}"), &format!("$KV.{LIMITS_BUCKET}.>"), replicas)
    });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_age: Duration::from_secs(25 * 3600),
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..base(&format!("KV_{DAYS_BUCKET}"), &format!("$KV.{DAYS_BUCKET}.>"), replicas)
    });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..base(&format!("KV_{POLLERS_BUCKET}"), &format!("$KV.{POLLERS_BUCKET}.>"), replicas)
    });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_age: PROBES_LAST,
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..base(&format!("KV_{PROBES_BUCKET}"), &format!("$KV.{PROBES_BUCKET}.>"), replicas)
    });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_age: SESSION_LASTS + Duration::from_secs(3600),
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..base(&format!("KV_{SESSIONS_BUCKET}"), &format!("$KV.{SESSIONS_BUCKET}.>"), replicas)
    });
    configs.push(Config {
        persist_mode: Some(PersistenceMode::Async),
        max_age: ANSWERS_LAST,
        max_messages: ANSWERS_MOST,
        max_messages_per_subject: 1,
        discard: DiscardPolicy::Old,
        allow_rollup: true,
        deny_delete: true,
        allow_message_ttl: true,
        ..base(&format!("KV_{ANSWERS_BUCKET}"), &format!("$KV.{ANSWERS_BUCKET}.>"), replicas)
    });
    configs.push(Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(MARKER_LASTS),
        ..base(&format!("KV_{LEASES_BUCKET}"), &format!("$KV.{LEASES_BUCKET}.>"), replicas)
    });
    configs.push(Config { max_messages_per_subject: 1, ..base(FILES, "symbia.file.>", replicas) });
    configs
}

/// Where the events of a subject are told on core NATS when they are stored: `symbia.stored.` with what follows `symbia.evt.`.
/// On that subject itself they are heard before, among them what the stream then refuses and what a broker loses that dies.
#[must_use]
pub fn stored_subject(event_subject: &str) -> String {
    event_subject.replacen("symbia.evt.", "symbia.stored.", 1)
}

/// The subject of the events that are told there.
#[must_use]
pub fn event_subject(stored_subject: &str) -> String {
    stored_subject.replacen("symbia.stored.", "symbia.evt.", 1)
}

/// A service's event stream: kept for ever, nothing can be deleted; what is stored is told ([`stored_subject`]).
#[must_use]
pub fn event_stream(service: Service, replicas: usize) -> Config {
    let subjects = format!("symbia.evt.{service}.>");
    Config {
        deny_delete: true,
        deny_purge: true,
        allow_atomic_publish: true,
        republish: Some(Republish {
            destination: stored_subject(&subjects),
            source: subjects.clone(),
            headers_only: false,
        }),
        ..base(&service.event_stream(), &subjects, replicas)
    }
}

fn base(name: &str, subjects: &str, replicas: usize) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        storage: StorageType::File,
        num_replicas: replicas,
        allow_direct: true,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        max_message_size: -1,
        max_consumers: -1,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}
