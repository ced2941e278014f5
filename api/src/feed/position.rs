//! Where a follower stands: how far it has come in each service's stream, as text `identity:12,messaging:40.1`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use symbia_events::Service;

/// How far a follower has come in one stream. As text, `12` has passed message 12, and `12.1` has passed all before message
/// 12 and one event of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Sequence of the last message passed as a whole; 0 = none.
    pub passed: u64,
    /// Events passed of the message behind it.
    pub events: u32,
}

impl Place {
    /// Behind the message of this sequence.
    #[must_use]
    pub const fn behind(sequence: u64) -> Self {
        Self { passed: sequence, events: 0 }
    }

    /// Behind event `index` (from 0) of the `count` events of a message.
    #[must_use]
    pub(crate) fn behind_event(sequence: u64, index: usize, count: usize) -> Self {
        match u32::try_from(index + 1) {
            Ok(events) if index + 1 < count => Self { passed: sequence - 1, events },
            _ => Self::behind(sequence),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.events {
            0 => write!(f, "{}", self.passed),
            events => write!(f, "{}.{events}", self.passed + 1),
        }
    }
}

/// A place in each of some streams. A feed that goes on from it has neither gap nor repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<Service, Place>);

impl Cursor {
    /// The place in a service's stream, if the cursor names that service.
    #[must_use]
    pub fn get(&self, service: Service) -> Option<Place> {
        self.0.get(&service).copied()
    }

    /// Moves to a place in a service's stream.
    pub fn set(&mut self, service: Service, place: Place) {
        self.0.insert(service, place);
    }

    /// The services named and the places in their streams.
    pub fn places(&self) -> impl Iterator<Item = (Service, Place)> {
        self.0.iter().map(|(service, place)| (*service, *place))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (service, place)) in self.0.iter().enumerate() {
            write!(f, "{}{service}:{place}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// The text is no position to follow from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be latest, earliest, or one place per service like identity:12,messaging:40 (40.1 = one event of message 40 is \
     done), as in the `cursor` of the last item"
)]
pub struct InvalidPosition;

impl FromStr for Cursor {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let mut cursor = Self::default();
        for part in text.split(',') {
            let (service, place) = part.trim().split_once(':').ok_or(InvalidPosition)?;
            let service = service.parse().map_err(|_| InvalidPosition)?;
            if cursor.0.insert(service, place.parse()?).is_some() {
                return Err(InvalidPosition);
            }
        }
        Ok(cursor)
    }
}

impl FromStr for Place {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (sequence, events) = text.split_once('.').map_or((text, None), |(s, e)| (s, Some(e)));
        let sequence: u64 = digits(sequence)?;
        match events {
            None => Ok(Self::behind(sequence)),
            Some(events) => {
                Ok(Self { passed: sequence.checked_sub(1).ok_or(InvalidPosition)?, events: digits(events)? })
            }
        }
    }
}

// `parse` alone would take a sign.
fn digits<T: FromStr>(text: &str) -> Result<T, InvalidPosition> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(InvalidPosition)
}

/// Where a feed begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// With what is stored from now on.
    Latest,
    /// With the first event of each stream.
    Earliest,
    /// Behind a cursor.
    Cursor(Cursor),
}

impl FromStr for From {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        match text {
            "latest" => Ok(Self::Latest),
            "earliest" => Ok(Self::Earliest),
            text => text.parse().map(Self::Cursor),
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use symbia_events::Service;

    use super::{Cursor, InvalidPosition, Place};

    #[test]
    fn a_cursor_is_read_back_from_its_text() {
        for text in ["identity:12", "identity:0,messaging:40.1", "logging:18446744073709551615"] {
            assert_eq!(text.parse::<Cursor>().map(|c| c.to_string()), Ok(text.to_owned()));
        }
        let reordered: Cursor = "messaging:40, identity:12.0".parse().expect("a cursor");
        assert_eq!(reordered.to_string(), "identity:11,messaging:40");
        assert_eq!(reordered.get(Service::Catalog), None);
        for text in [
            "",
            "identity",
            "identity:",
            "identity:x",
            "identity:-1",
            "identity:+1",
            "identity:1.",
            "identity:0.1",
            "nobody:1",
            "identity:1,identity:2",
            "identity:1,",
            "identity:18446744073709551616",
            "identity:1.2.3",
            "Latest",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidPosition), "{text}");
        }
    }

    #[test]
    fn a_message_is_passed_with_its_last_event() {
        let text = |index, count| Place::behind_event(7, index, count).to_string();
        assert_eq!([text(0, 1), text(0, 3), text(1, 3), text(2, 3)], ["7", "7.1", "7.2", "7"]);
    }
}
