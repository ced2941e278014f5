//! What a batch decides, and which lines it takes.

use symbia_events::{
    ActorType, SubjectKey,
    integrations::{BatchLineDeferred, BatchLineDue},
};

use super::*;
use crate::testing::{AT, given};

fn platform() -> Actor {
    Actor::service("integrations")
}

fn person(id: &str) -> Actor {
    Actor { id: id.into(), kind: ActorType::User, key: Some("k1".into()), ..platform() }
}

fn id() -> String {
    "batch_1".into()
}

fn create() -> CreateBatch {
    let metadata = Some(SubjectKey::from_bytes("ada", [7; 32]).seal("{}"));
    let (endpoint, completion_window) = (BatchEndpoint::Chat, "24h".to_owned());
    CreateBatch { batch_id: id(), input_file_id: "file-1".into(), endpoint, completion_window, metadata }
}

fn created() -> BatchEvent {
    let decision = Batch::default().decide(create().into(), &person("ada"), AT);
    decision.map(|decision| decision.events).unwrap_or_default().remove(0)
}

fn started(lines: u32, at_once: u32) -> BatchEvent {
    BatchStarted { batch_id: id(), lines, at_once }.into()
}

fn ended(line: u32, place: u32) -> BatchEvent {
    BatchLineEnded { batch_id: id(), line, place, outcome: LineOutcome::Succeeded }.into()
}

fn end(line: u32) -> EndBatchLine {
    EndBatchLine { batch_id: id(), line, outcome: LineOutcome::Succeeded }
}

fn finalizing() -> BatchEvent {
    BatchFinalizing { batch_id: id() }.into()
}

fn stopping(reason: BatchStop, by: &str) -> BatchEvent {
    BatchStopping { batch_id: id(), reason, by: by.into() }.into()
}

fn complete() -> CompleteBatch {
    CompleteBatch { batch_id: id(), output_file_id: Some("file-2".into()), error_file_id: None }
}

#[test]
fn a_batch_is_made_in_the_name_of_who_asks_and_has_a_day() {
    let BatchEvent::BatchCreated(made) = created() else { panic!("not made") };
    assert_eq!((made.created_by.as_str(), made.key_id.as_deref()), ("ada", Some("k1")));
    let expires = OffsetDateTime::parse(&made.expires_at, &Rfc3339).ok();
    assert_eq!(expires, Some(AT + Duration::hours(24)));
    let hasty = CreateBatch { completion_window: "1h".into(), ..create() };
    given::<Batch>([]).when(hasty, &person("ada")).rejected("VALIDATION_FAILED");
    given::<Batch>([]).when(create(), &person("eve")).rejected("WRONG_KEY");
}

#[test]
fn each_line_ends_once_and_the_last_one_makes_it_finalize() {
    let history = [created(), started(3, 2), ended(1, 1)];
    let by = platform();
    given::<Batch>(history.clone()).when(end(1), &by).then([]);
    given::<Batch>(history.clone()).when(end(3), &by).rejected("NOT_FOUND");
    given::<Batch>(history.clone()).when(end(0), &by).then([ended(0, 2)]);
    given::<Batch>(history.clone()).when(end(0), &person("ada")).rejected("FORBIDDEN");
    given::<Batch>(history.clone()).when(complete(), &by).rejected("CONFLICT");
    let nearly = [created(), started(3, 2), ended(1, 1), ended(0, 2)];
    given::<Batch>(nearly.clone()).when(end(2), &by).then([ended(2, 3), finalizing()]);
    let done = [&nearly[..], &[ended(2, 3), finalizing()]].concat();
    let completed = BatchCompleted { batch_id: id(), output_file_id: Some("file-2".into()), error_file_id: None };
    given::<Batch>(done.clone()).when(complete(), &by).then([completed.into()]);
    given::<Batch>(done).when(end(2), &by).rejected("CONFLICT");
}

#[test]
fn who_made_it_stops_it_and_what_was_asked_comes_to_its_end_first() {
    let (ada, by) = (person("ada"), platform());
    let cancel = || CancelBatch { batch_id: id() };
    let running = [created(), started(9, 2), ended(1, 1)];
    given::<Batch>(running.clone()).when(cancel(), &person("eve")).rejected("NOT_FOUND");
    given::<Batch>(running.clone()).when(cancel(), &ada).then([stopping(BatchStop::Cancelled, "ada")]);
    // The lines 0 and 2 may have been asked.
    let stopped = [&running[..], &[stopping(BatchStop::Cancelled, "ada")]].concat();
    given::<Batch>(stopped.clone()).when(cancel(), &ada).then([]);
    given::<Batch>(stopped.clone()).when(end(2), &by).then([ended(2, 2)]);
    let last = [&stopped[..], &[ended(2, 2)]].concat();
    given::<Batch>(last.clone()).when(end(0), &by).then([ended(0, 3), finalizing()]);
    let done = [&last[..], &[ended(0, 3), finalizing()]].concat();
    let cancelled = BatchCancelled { batch_id: id(), output_file_id: Some("file-2".into()), error_file_id: None };
    given::<Batch>(done.clone()).when(complete(), &by).then([cancelled.clone().into()]);
    let over = [&done[..], &[cancelled.into()]].concat();
    given::<Batch>(over).when(cancel(), &ada).rejected("CONFLICT");
    // Before its file was looked through, nothing was asked.
    let early = [stopping(BatchStop::Cancelled, "ada"), finalizing()];
    given::<Batch>([created()]).when(cancel(), &ada).then(early.clone());
    let late = StartBatch { batch_id: id(), lines: 1, at_once: 1 };
    given::<Batch>([&[created()][..], &early[..]].concat()).when(late, &by).rejected("CONFLICT");
}

#[test]
fn what_takes_too_long_expires_and_what_is_over_does_not() {
    let expire = || ExpireBatch { batch_id: id() };
    let by = platform();
    given::<Batch>([created(), started(9, 2)]).when(expire(), &by).then([stopping(BatchStop::Expired, &by.id)]);
    given::<Batch>([created(), started(9, 2)]).when(expire(), &person("ada")).rejected("FORBIDDEN");
    let done = [created(), started(1, 1), ended(0, 1), finalizing()];
    given::<Batch>(done).when(expire(), &by).rejected("CONFLICT");
}

fn admitted() -> BatchEvent {
    BatchAdmitted { batch_id: id(), org_id: "acme".into(), place: 3 }.into()
}

fn deferred(line: u32, tries: u32) -> BatchEvent {
    BatchLineDeferred { batch_id: id(), line, tries, ask_at: "2026-01-01T00:00:01Z".into() }.into()
}

fn defer(line: u32, tries: u32) -> DeferBatchLine {
    DeferBatchLine { batch_id: id(), line, tries, ask_at: "2026-01-01T00:00:01Z".into() }
}

fn due(line: u32, tries: u32) -> BatchEvent {
    BatchLineDue { batch_id: id(), line, tries }.into()
}

fn ask(line: u32, tries: u32) -> AskBatchLine {
    AskBatchLine { batch_id: id(), line, tries }
}

fn dropped(line: u32, place: u32) -> BatchEvent {
    BatchLineEnded { batch_id: id(), line, place, outcome: LineOutcome::Dropped }.into()
}

#[test]
fn a_line_that_met_a_limit_waits_and_is_asked_once_for_each_time() {
    let by = platform();
    let running = [created(), started(9, 2)];
    given::<Batch>(running.clone()).when(defer(1, 1), &by).then([deferred(1, 1)]);
    given::<Batch>(running.clone()).when(defer(1, 1), &person("ada")).rejected("FORBIDDEN");
    given::<Batch>(running.clone()).when(defer(1, 2), &by).rejected("VALIDATION_FAILED");
    given::<Batch>(running.clone()).when(defer(9, 1), &by).rejected("NOT_FOUND");
    given::<Batch>(running.clone()).when(ask(1, 1), &by).then([]);
    let waits = [&running[..], &[deferred(1, 1)]].concat();
    given::<Batch>(waits.clone()).when(defer(1, 1), &by).then([]);
    given::<Batch>(waits.clone()).when(ask(1, 1), &person("ada")).rejected("FORBIDDEN");
    given::<Batch>(waits.clone()).when(ask(1, 1), &by).then([due(1, 1)]);
    // The timer again, and the limit again.
    let asked = [&waits[..], &[due(1, 1)]].concat();
    given::<Batch>(asked.clone()).when(ask(1, 1), &by).then([]);
    given::<Batch>(asked.clone()).when(defer(1, 1), &by).then([]);
    given::<Batch>(asked.clone()).when(defer(1, 2), &by).then([deferred(1, 2)]);
    given::<Batch>(asked.clone()).when(end(1), &by).then([ended(1, 1)]);
    // What comes after its end.
    let over = [&asked[..], &[ended(1, 1)]].concat();
    given::<Batch>(over.clone()).when(defer(1, 2), &by).then([]);
    given::<Batch>(over).when(ask(1, 1), &by).then([]);
}

#[test]
fn what_waits_ends_with_its_batch_and_what_was_asked_comes_to_its_end_first() {
    let (ada, by) = (person("ada"), platform());
    let cancel = || CancelBatch { batch_id: id() };
    let stop = stopping(BatchStop::Cancelled, "ada");
    let waits = [created(), started(9, 2), ended(0, 1), deferred(1, 1)];
    given::<Batch>(waits.clone()).when(cancel(), &ada).then([stop.clone(), dropped(1, 2)]);
    let all = [&waits[..], &[deferred(2, 1)]].concat();
    given::<Batch>(all).when(cancel(), &ada).then([stop.clone(), dropped(1, 2), dropped(2, 3), finalizing()]);
    // Its limit is told after the stop: it is not asked again.
    let stopped = [&waits[..], &[stop, dropped(1, 2)]].concat();
    given::<Batch>(stopped.clone()).when(ask(1, 1), &by).then([]);
    given::<Batch>(stopped.clone()).when(defer(1, 2), &by).then([]);
    given::<Batch>(stopped).when(defer(2, 1), &by).then([dropped(2, 3), finalizing()]);
}

#[test]
fn a_batch_has_a_place_of_its_organization_until_its_end() {
    let by = platform();
    let admit = |place| AdmitBatch { batch_id: id(), org_id: "acme".into(), place };
    let place = |org: &str| crate::Claim {
        tenant: org.parse().unwrap(),
        name: "batch:3".into(),
        holder: id(),
        taken: PLACE_TAKEN,
    };
    let decided = |history: &[BatchEvent], command: BatchCommand| {
        let mut batch = Batch::default();
        history.iter().for_each(|event| batch.apply(event));
        batch.decide(command, &by, AT).unwrap()
    };
    let taken = decided(&[created()], admit(3).into());
    assert_eq!((taken.events, taken.claims), (vec![admitted()], vec![crate::ClaimChange::Take(place("acme"))]));
    given::<Batch>([created(), admitted()]).when(admit(4), &by).then([]);
    given::<Batch>([created()]).when(admit(MAX_BATCHES), &by).rejected("VALIDATION_FAILED");
    given::<Batch>([created()]).when(admit(0), &person("ada")).rejected("FORBIDDEN");
    let free = vec![crate::ClaimChange::Release(place("acme"))];
    let failed = FailBatch { batch_id: id(), errors: Vec::new() };
    assert_eq!(decided(&[created(), admitted()], failed.clone().into()).claims, free);
    assert_eq!(decided(&[created()], failed.into()).claims, Vec::new());
    let done = [created(), admitted(), started(1, 1), ended(0, 1), finalizing()];
    assert_eq!(decided(&done, complete().into()).claims, free);
}

fn line(custom_id: &str) -> String {
    format!(r#"{{"custom_id":"{custom_id}","method":"POST","url":"/v1/chat/completions","body":{{}}}}"#)
}

#[test]
fn what_is_wrong_with_a_line_is_told_with_its_place() {
    let checked = |lines: &[&str]| {
        let mut check = LineCheck::new(BatchEndpoint::Chat);
        for (number, line) in (1..).zip(lines) {
            if !check.line(number, line.as_bytes()) {
                break;
            }
        }
        check.end()
    };
    let (first, second) = (line("a"), line("b"));
    assert_eq!(checked(&[&first, &second]), Ok(2));
    assert_eq!(checked(&[]).unwrap_err()[0].code, "empty_file");
    let (post, path) = (second.replace("POST", "GET"), second.replace("chat/", ""));
    let (bare, long) = (second.replace("{}", "[]"), line(&"x".repeat(513)));
    // The check and who asks read the last one, or the first one: nobody is to.
    let doubled = second.replace("\"method\"", "\"custom_id\":\"c\",\"method\"");
    let listed = r#"["b","POST","/v1/chat/completions",{}]"#;
    assert!(BatchLine::read(BatchEndpoint::Chat, second.as_bytes()).is_some());
    assert_eq!(BatchLine::read(BatchEndpoint::Chat, doubled.as_bytes()), None);
    let wrong: [(&str, &str, Option<&str>); 10] = [
        (&doubled, "invalid_json_line", None),
        (listed, "invalid_json_line", None),
        ("{", "invalid_json_line", None),
        ("7", "invalid_json_line", None),
        ("{}", "missing_required_parameter", Some("custom_id")),
        (&first, "duplicate_custom_id", Some("custom_id")),
        (&long, "invalid_custom_id", Some("custom_id")),
        (&post, "invalid_method", Some("method")),
        (&path, "mismatched_endpoint", Some("url")),
        (&bare, "invalid_body", Some("body")),
    ];
    for (line, code, param) in wrong {
        let errors = checked(&[&first, line]).unwrap_err();
        let told = (errors[0].code.as_str(), errors[0].param.as_deref(), errors[0].line);
        assert_eq!((errors.len(), told), (1, (code, param, Some(2))), "{line}");
    }
    let many: Vec<String> = (0..=MAX_LINES).map(|n| line(&n.to_string())).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let errors = checked(&many).unwrap_err();
    assert_eq!((errors[0].code.as_str(), errors[0].line), ("too_many_tasks", Some(MAX_LINES + 1)));
}
