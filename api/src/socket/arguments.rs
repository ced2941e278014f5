//! The arguments of a call: as many as the client gave.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::Value;

/// All arguments behind the name of the event, without the callback.
pub(super) struct Arguments(pub Vec<Value>);

/// More than any call takes.
const MOST: usize = 8;

impl<'de> Deserialize<'de> for Arguments {
    // As a tuple, which the parser takes for all arguments; of any length, since later ones may be absent.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(MOST, All)
    }
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = Arguments;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} arguments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Arguments, A::Error> {
        let mut arguments = Vec::new();
        while let Some(argument) = given.next_element()? {
            if arguments.len() == MOST {
                return Err(serde::de::Error::invalid_length(MOST + 1, &self));
            }
            arguments.push(argument);
        }
        Ok(Arguments(arguments))
    }
}
