//! Server-sent events as they arrive (HTML §9.2), as far as our own streams use them.

use reqwest::Response;
use serde_json::Value;

/// One event.
#[derive(Clone, Debug)]
pub struct Sse {
    /// Its name.
    pub name: String,
    /// The place behind it, when it is stored.
    pub id: Option<String>,
    /// Its data.
    pub data: Value,
}

/// The events of an answer.
pub struct Events {
    response: Response,
    buffer: Vec<u8>,
}

impl Events {
    /// Reads an answer.
    pub fn new(response: Response) -> Self {
        Events { response, buffer: Vec::new() }
    }

    /// The next event; `None` when the answer has ended. Cancel-safe.
    pub async fn next(&mut self) -> reqwest::Result<Option<Sse>> {
        loop {
            if let Some(event) = self.buffered() {
                return Ok(Some(event));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    fn buffered(&mut self) -> Option<Sse> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
            let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
            // Heartbeats and retry hints carry no data.
            if let Some(event) = event(&String::from_utf8_lossy(&frame)) {
                return Some(event);
            }
        }
    }
}

fn event(frame: &str) -> Option<Sse> {
    let (mut name, mut id, mut data) = (String::new(), None, None);
    for line in frame.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "id" => id = Some(value.to_owned()),
            "data" => {
                let data: &mut String = data.get_or_insert_default();
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
            _ => {}
        }
    }
    Some(Sse { name, id, data: serde_json::from_str(&data?).ok()? })
}

#[cfg(test)]
mod tests {
    use super::event;

    #[test]
    fn an_event_has_a_name_a_place_and_data_and_comments_are_none() {
        let read =
            event("event: message\nid: messaging:4\ndata: {\"a\":\ndata: 1}\n\n").map(|e| (e.name, e.id, e.data));
        let expected = ("message".to_owned(), Some("messaging:4".to_owned()), serde_json::json!({ "a": 1 }));
        assert_eq!(read, Some(expected));
        assert!(event(": heartbeat\n\n").is_none());
        assert!(event("retry: 1000\n\n").is_none());
    }
}
