//! The download aggregate: a model file that somebody wants, until it is there, or is not to be had (models.md §16).
//!
//! Whoever may manage models asks and cancels; the platform records what became of it. An end is an end: what is recorded
//! later, by a process that had not heard of it, changes nothing.

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, OrgId,
    models::{
        DownloadCancelled, DownloadCompleted, DownloadEvent, DownloadFailed, DownloadRequested, DownloadStarted,
        ModelSource,
    },
};
use time::OffsetDateTime;

use super::model::{managers_only, platform_only, short};
use crate::{Actor, Aggregate, Decision, Rejection, TenantRule, domain_commands};

domain_commands! {
    /// What can be done about a download.
    DownloadCommand: Models / "download" {
        /// Asks for a model.
        RequestDownload = "symbia.cmd.models.request-download.v1" { download_id: String, from: ModelSource }
        /// It is on its way.
        RecordDownloadStarted = "symbia.cmd.models.record-download-started.v1" {
            download_id: String,
            filename: String,
            #[serde(default)]
            bytes: Option<u64>,
        }
        /// It is there.
        RecordDownloadCompleted = "symbia.cmd.models.record-download-completed.v1" {
            download_id: String,
            filename: String,
            bytes: u64,
            sha256: String,
            #[serde(default)]
            license: Option<String>,
            duration_ms: u64,
        }
        /// It is not to be had.
        RecordDownloadFailed = "symbia.cmd.models.record-download-failed.v1" {
            download_id: String,
            reason: String,
            message: String,
        }
        /// Gives it up.
        CancelDownload = "symbia.cmd.models.cancel-download.v1" { download_id: String }
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Download {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// It is wanted.
    Wanted,
    /// It came, or did not, or is not wanted any more.
    Ended,
}

impl Download {
    fn request(self, c: RequestDownload, by: &Actor) -> Result<Decision<DownloadEvent>, Rejection> {
        if self != Download::Unknown {
            return Err(Rejection::new("CONFLICT", "there is a download of this id already"));
        }
        check(&c.from)?;
        Ok(Decision::one(DownloadRequested { download_id: c.download_id, by: by.id.clone(), from: c.from }))
    }

    fn cancel(self, c: CancelDownload, by: &Actor) -> Result<Decision<DownloadEvent>, Rejection> {
        match self {
            Download::Unknown => Err(Rejection::not_found("download")),
            Download::Wanted => Ok(Decision::one(DownloadCancelled { download_id: c.download_id, by: by.id.clone() })),
            Download::Ended => Err(Rejection::new("CONFLICT", "the download has ended")),
        }
    }
}

fn check(from: &ModelSource) -> Result<(), Rejection> {
    let invalid = |message: &str| Err(Rejection::invalid(message));
    let plain = |text: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !text.is_empty() && text.len() <= 96 && text.bytes().all(fits) && !text.starts_with('.')
    };
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match from {
        ModelSource::Hub { repo, file, revision, sha256 } => {
            if !repo.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name)) {
                return invalid("repo: must be ORG/NAME");
            }
            if !revision.as_deref().is_none_or(plain) {
                return invalid("revision: must be a branch, a tag or a commit");
            }
            if file.as_ref().is_some_and(|file| file.len() > 255) {
                return invalid("file: must be the name of a file of the repository, or a part of one");
            }
            if !sha256.as_deref().is_none_or(is_digest) {
                return invalid("sha256: must be 64 hexadecimal digits");
            }
        }
        ModelSource::Url { url, sha256 } => {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if rest.is_none_or(str::is_empty) || url.len() > 2000 {
                return invalid("url: must be an http or https address");
            }
            if url.contains(['@', '?', '#']) {
                return invalid("url: must have no user, password, query or fragment: those could be secrets");
            }
            if !is_digest(sha256) {
                return invalid("sha256: must be 64 hexadecimal digits: it says that the file is the right one");
            }
        }
        ModelSource::Package { name } if name != "smollm2" => return invalid("name: must be smollm2"),
        ModelSource::Package { .. } => {}
    }
    Ok(())
}

impl Aggregate for Download {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("downloadId");
    type Command = DownloadCommand;
    type Event = DownloadEvent;

    fn apply(&mut self, event: &DownloadEvent) {
        *self = match event {
            DownloadEvent::DownloadRequested(_) | DownloadEvent::DownloadStarted(_) => Download::Wanted,
            DownloadEvent::DownloadCompleted(_)
            | DownloadEvent::DownloadFailed(_)
            | DownloadEvent::DownloadCancelled(_) => Download::Ended,
        };
    }

    fn belongs(_command: &DownloadCommand, to: &AggregateRef) -> Result<(), Rejection> {
        if to.tenant.as_str() == OrgId::GLOBAL { Ok(()) } else { Err(Rejection::misaddressed(to)) }
    }

    fn tenant_rule(_command: &DownloadCommand) -> TenantRule {
        TenantRule::Anyone
    }

    fn decide(
        &self,
        command: DownloadCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<DownloadEvent>, Rejection> {
        let recorded: DownloadEvent = match command {
            DownloadCommand::RequestDownload(c) => {
                managers_only(by)?;
                return self.request(c, by);
            }
            DownloadCommand::CancelDownload(c) => {
                managers_only(by)?;
                return self.cancel(c, by);
            }
            DownloadCommand::RecordDownloadStarted(c) => {
                let RecordDownloadStarted { download_id, filename, bytes } = c;
                DownloadStarted { download_id, filename, bytes }.into()
            }
            DownloadCommand::RecordDownloadCompleted(c) => {
                let RecordDownloadCompleted { download_id, filename, bytes, sha256, license, duration_ms } = c;
                DownloadCompleted { download_id, filename, bytes, sha256, license, duration_ms }.into()
            }
            DownloadCommand::RecordDownloadFailed(c) => {
                let RecordDownloadFailed { download_id, reason, message } = c;
                DownloadFailed { download_id, reason, message: short(message) }.into()
            }
        };
        platform_only(by)?;
        Ok(if *self == Download::Wanted { Decision::one(recorded) } else { Decision::nothing() })
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::testing::given;

    fn ada() -> Actor {
        let entitlements = vec!["cap:models.manage".to_owned()];
        Actor { id: "ada".into(), kind: ActorType::User, entitlements, ..Actor::system("models") }
    }

    fn hub(repo: &str) -> ModelSource {
        ModelSource::Hub { repo: repo.into(), file: None, revision: None, sha256: None }
    }

    fn url(url: &str, sha256: &str) -> ModelSource {
        ModelSource::Url { url: url.into(), sha256: sha256.into() }
    }

    fn request(from: ModelSource) -> RequestDownload {
        RequestDownload { download_id: "d".into(), from }
    }

    fn requested() -> DownloadRequested {
        DownloadRequested { download_id: "d".into(), by: "ada".into(), from: hub("org/name") }
    }

    #[test]
    fn only_managers_ask_and_only_for_what_can_be_asked_for() {
        given::<Download>([]).when(request(hub("org/name")), &ada()).then([requested().into()]);
        let bob = Actor { entitlements: Vec::new(), ..ada() };
        given::<Download>([]).when(request(hub("org/name")), &bob).rejected("MISSING_CAPABILITY");
        let digest = "a".repeat(64);
        for wrong in [
            hub("name"),
            hub("../name"),
            hub("org/na me"),
            url("file:///etc/passwd", &digest),
            url("https://me:secret@example.com/m.gguf", &digest),
            url("https://example.com/m.gguf?token=secret", &digest),
            url("https://example.com/m.gguf", "abc"),
            ModelSource::Package { name: "requests".into() },
        ] {
            given::<Download>([]).when(request(wrong), &ada()).rejected("VALIDATION_FAILED");
        }
    }

    #[test]
    fn a_download_ends_once() {
        let keeper = Actor::system("models");
        let cancel = CancelDownload { download_id: "d".into() };
        let cancelled = DownloadCancelled { download_id: "d".into(), by: "ada".into() };
        let start = RecordDownloadStarted { download_id: "d".into(), filename: "m.gguf".into(), bytes: Some(1) };
        given::<Download>([]).when(cancel.clone(), &ada()).rejected("NOT_FOUND");
        given::<Download>([requested().into()]).when(cancel.clone(), &ada()).then([cancelled.clone().into()]);
        let history = || [requested().into(), cancelled.clone().into()];
        given::<Download>(history()).when(start.clone(), &keeper).then([]);
        given::<Download>(history()).when(cancel, &ada()).rejected("CONFLICT");
        given::<Download>([requested().into()]).when(start, &ada()).rejected("FORBIDDEN");
    }
}
