//! An aggregate's last commands: a repeated one is recognised and gets its first outcome again, however it was cached.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use symbia_commands::EventRef;
use symbia_events::CommandId;
use time::OffsetDateTime;

/// How many are kept.
const REMEMBERED: usize = 256;

/// The last commands, oldest first. It is copied with each load and written with each snapshot, so it is kept small:
/// names of event types stand once, and a run of events of one type is one entry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    types: Vec<String>,
    commands: VecDeque<Entry>,
    // Latest time of a command that is no longer among these.
    forgotten: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
struct Entry {
    id: CommandId,
    // The command's time, as `in_milliseconds` gives it.
    time: i64,
    sequence: u64,
    // Version of the first event.
    version: u32,
    first: Run,
    others: Vec<Run>,
}

// Index of the type, and how many events of it follow each other.
type Run = (u16, u32);
type Row = (CommandId, i64, u64, u32, Run, Vec<Run>);

impl From<Row> for Entry {
    fn from((id, time, sequence, version, first, others): Row) -> Self {
        Entry { id, time, sequence, version, first, others }
    }
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        (entry.id, entry.time, entry.sequence, entry.version, entry.first, entry.others)
    }
}

impl History {
    /// Whether there was one command at most.
    pub(crate) fn is_first(&self) -> bool {
        self.commands.len() <= 1 && self.forgotten == 0
    }

    /// Adds a command whose events, of the given types, begin with `version` and stand at stream sequence `sequence`.
    pub(crate) fn push<'a>(
        &mut self,
        id: CommandId,
        time: OffsetDateTime,
        sequence: u64,
        version: u32,
        types: impl IntoIterator<Item = &'a str>,
    ) {
        let mut runs: Vec<Run> = Vec::new();
        let mut first: Option<Run> = None;
        for name in types {
            let index = self.index(name);
            match runs.last_mut().or(first.as_mut()) {
                Some(run) if run.0 == index => run.1 += 1,
                Some(_) => runs.push((index, 1)),
                None => first = Some((index, 1)),
            }
        }
        let Some(first) = first else { return };
        if self.commands.len() == REMEMBERED
            && let Some(oldest) = self.commands.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest.time);
        }
        self.commands.push_back(Entry { id, time: in_milliseconds(time), sequence, version, first, others: runs });
    }

    /// Whether a command of this time is older than one that is no longer kept in mind, and so may be one.
    pub(crate) fn may_have_forgotten(&self, time: OffsetDateTime) -> bool {
        in_milliseconds(time) <= self.forgotten
    }

    /// Stream sequence and events of a command decided before.
    pub(crate) fn find(&self, id: CommandId) -> Option<(u64, Vec<EventRef>)> {
        let entry = self.commands.iter().rev().find(|entry| entry.id == id)?;
        let runs = std::iter::once(&entry.first).chain(&entry.others);
        let names = runs.flat_map(|(index, count)| std::iter::repeat_n(index, *count as usize));
        let events = names.zip(entry.version..).map(|(index, version)| {
            let event_type = self.types.get(usize::from(*index)).cloned().unwrap_or_default();
            EventRef { event_type, version }
        });
        Some((entry.sequence, events.collect()))
    }

    fn index(&mut self, name: &str) -> u16 {
        let known = self.types.iter().position(|known| known == name).unwrap_or_else(|| {
            self.types.push(name.to_owned());
            self.types.len() - 1
        });
        // An aggregate has a handful of event types.
        u16::try_from(known).unwrap_or(u16::MAX)
    }
}

fn in_milliseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_command_gives_its_events_again_also_from_a_snapshot() {
        let (id, at, mut history) = (CommandId::random(), OffsetDateTime::UNIX_EPOCH, History::default());
        history.push(id, at, 7, 4, ["a", "a", "b", "a"]);
        history.push(CommandId::random(), at, 9, 8, ["b"]);
        let event = |event_type: &str, version| EventRef { event_type: event_type.to_owned(), version };
        let expected = Some((7, vec![event("a", 4), event("a", 5), event("b", 6), event("a", 7)]));
        assert_eq!(history.find(id), expected);
        let read: History = serde_json::from_str(&serde_json::to_string(&history).unwrap()).unwrap();
        assert_eq!(read.find(id), expected);
        assert_eq!(read.find(CommandId::random()), None);
    }

    #[test]
    fn the_oldest_command_is_forgotten_first() {
        let ids: Vec<CommandId> = (0..=REMEMBERED).map(|_| CommandId::random()).collect();
        let (mut history, at) =
            (History::default(), |second| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second));
        for (second, id) in (1..).zip(&ids) {
            history.push(*id, at(second), 1, 1, ["a"]);
        }
        assert_eq!(history.find(ids[0]), None);
        assert!(ids[1..].iter().all(|id| history.find(*id).is_some()));
        assert!(history.may_have_forgotten(at(1)));
        assert!(!history.may_have_forgotten(at(2)));
    }
}
