//! What may happen: command types, aggregates and authorization. Pure: no I/O, no clock, no randomness.
