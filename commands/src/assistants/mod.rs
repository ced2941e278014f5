//! Commands and aggregates of the assistants service (assistants.md §21).
