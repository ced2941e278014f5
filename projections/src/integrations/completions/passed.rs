//! Calls of providers' own APIs: requests like others, as far as it counts what they took.

use symbia_events::{Event, integrations::PassthroughEvent};

use super::{Row, int};
use crate::columns::{name_of, text};

/// What happens to it, on its row.
pub(super) fn apply(row: &mut Option<Row>, event: &Event, change: PassthroughEvent) {
    if let PassthroughEvent::PassthroughRequested(e) = change {
        row.get_or_insert_with(|| Row {
            provider: Some(text(e.provider)),
            model: e.model.map(text),
            operation: "passthrough".to_owned(),
            ..Row::requested(event, e.context, e.requested_by)
        });
        return;
    }
    let Some(row) = row else { return };
    match change {
        PassthroughEvent::PassthroughRequested(_) => {}
        PassthroughEvent::PassthroughAdmitted(_) => {
            row.attempts = 1;
            "running".clone_into(&mut row.status);
        }
        PassthroughEvent::PassthroughCompleted(e) => {
            row.end(event, "completed", Some(e.usage));
            row.model = e.model.map(text);
            row.total_ms = Some(int(e.total_ms));
            row.credential_id = e.credential_id.map(text);
            row.credential_source = Some(text(e.credential_source));
            row.costs(e.cost);
        }
        PassthroughEvent::PassthroughFailed(e) => {
            row.end(event, "failed", e.usage);
            row.model = e.model.map(text);
            row.credential_id = e.credential_id.map(text);
            row.credential_source = e.credential_source.map(text);
            row.costs(e.cost);
            row.failed(name_of(e.category), e.code);
        }
    }
}
