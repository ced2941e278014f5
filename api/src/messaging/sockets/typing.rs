//! Who is writing: it ends by itself, so that a client which forgets to say so leaves nobody writing for ever.

use std::{collections::HashMap, time::Duration};

use socketioxide::socket::Sid;
use tokio::time::Instant;

use super::told::Room;

const LASTS: Duration = Duration::from_secs(6);

#[derive(Default)]
pub(super) struct Typing(HashMap<(Room, Sid), Instant>);

impl Typing {
    pub fn started(&mut self, room: Room, sid: Sid) {
        self.0.insert((room, sid), Instant::now() + LASTS);
    }

    /// True when it was writing.
    pub fn stopped(&mut self, room: &Room, sid: Sid) -> bool {
        self.0.remove(&(room.clone(), sid)).is_some()
    }

    /// The sockets that write in a room.
    pub fn in_room(&self, room: &Room) -> Vec<Sid> {
        self.0.keys().filter(|(r, _)| r == room).map(|(_, sid)| *sid).collect()
    }

    /// Those that have said nothing for too long.
    pub fn due(&mut self) -> Vec<(Room, Sid)> {
        let now = Instant::now();
        self.0.extract_if(|_, until| *until <= now).map(|(key, _)| key).collect()
    }
}
