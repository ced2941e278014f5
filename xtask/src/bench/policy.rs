//! Policies asked about a call: 1 000 of them, compiled, of all kinds of conditions, against the same read plainly one after the
//! other with the cheapest comparison there is.

use std::{hint::black_box, time::Instant};

use anyhow::{Result, ensure};
use symbia_commands::network::{Inputs, PolicyRecord, PolicySet};
use symbia_events::network::{Action, Boundary, Condition, Field, LogLevel, Operator, PolicyDefinition, PolicyMode};

use super::{Bench, measure::Pairs, table::Target};

/// Rows of this group.
pub const ROWS: [&str; 1] = ["policy_eval"];
const POLICIES: i64 = 1_000;
const CALLS: u32 = 2_000;

const CALL: Inputs<'static> = Inputs {
    source: "messaging",
    target: "assistant:billing",
    event_type: "message.new",
    boundary: Boundary::Intra,
    run_id: "run_01jf3q6m8v",
};

/// Policies that all miss the call, so that each of them counts, and a last one that refuses it.
fn policies() -> Vec<PolicyRecord> {
    let when = |field, operator, value: String| Condition { field, operator, value };
    let of = |at: i64| match at % 5 {
        0 => vec![when(Field::EventType, Operator::Eq, format!("message.kind-{at}"))],
        1 => vec![when(Field::RunId, Operator::StartsWith, format!("job_{at}"))],
        2 => vec![when(Field::Target, Operator::Contains, format!("tenant-{at}"))],
        3 => vec![when(Field::RunId, Operator::Regex, format!("^batch-{at}-[0-9]+$"))],
        _ => vec![
            when(Field::Source, Operator::Eq, "messaging".to_owned()),
            when(Field::Target, Operator::StartsWith, format!("assistant:{at}")),
        ],
    };
    let policy = |at: i64| {
        let last = at + 1 == POLICIES;
        let definition = PolicyDefinition {
            name: format!("policy {at}"),
            priority: POLICIES - at,
            conditions: if last { Vec::new() } else { of(at) },
            action: match at % 3 {
                _ if last => Action::Deny { reason: None },
                0 => Action::Log { level: LogLevel::Info },
                _ => Action::Deny { reason: None },
            },
            enabled: true,
            mode: PolicyMode::Enforce,
        };
        PolicyRecord { id: format!("p{at}"), version: 1, order: at, definition }
    };
    (0..POLICIES).map(policy).collect()
}

// Microseconds of one call, on average.
fn micros(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..CALLS).for_each(|_| call());
    began.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}

/// Measures the row.
#[allow(clippy::unused_async, reason = "as the other groups")]
pub async fn run(bench: &mut Bench) -> Result<()> {
    let records = policies();
    let set = PolicySet::compile(&records);
    ensure!(set.len() == records.len(), "not all policies count");
    let decisive = set.evaluate(&CALL).decisive.map(|rule| rule.id.clone());
    ensure!(decisive.as_deref() == Some("p999"), "another policy decided: {decisive:?}");
    let plain = || {
        let mut found = 0_usize;
        for record in &records {
            let conditions = &record.definition.conditions;
            found += usize::from(conditions.iter().all(|condition| black_box(CALL.run_id) == condition.value));
        }
        black_box(found);
    };
    let mut pairs = Pairs::default();
    for _ in 0..bench.scale.rounds {
        let raw = micros(plain);
        pairs.push(micros(|| drop(black_box(set.evaluate(black_box(&CALL))))), raw);
    }
    let what = "1 000 policies asked about a call (raw: 1 000 comparisons)";
    bench.table.push(pairs.row(ROWS[0], what, "µs", Target::AtMost(50.0)));
    Ok(())
}
