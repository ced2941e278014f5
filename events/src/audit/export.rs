//! The export format: newline-delimited JSON. The first line says what it is, then one line per message, and the last
//! line is the signed [`Heads`] of what was exported, so that a cut or changed file shows.

use std::io::{BufRead, Write};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Heads, HeadsError, Message, Report, Verifier};
use crate::{KeyRing, Service};

/// Value of `format` in the first line.
pub const FORMAT: &str = "symbia-log-export";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Longest line that is read, in bytes.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`VERSION`].
    pub version: u32,
    /// The services whose streams follow.
    pub services: Vec<Service>,
    /// When the export began.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
}

/// A line: one message of an event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Whose event stream.
    pub service: Service,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its `Nats-Msg-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// When the broker stored it.
    #[serde(with = "time::serde::rfc3339")]
    pub stored_at: OffsetDateTime,
    /// Its bytes: as text, or as base64 when they are none.
    #[serde(flatten)]
    pub payload: Payload,
}

/// The bytes of a message in an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Payload {
    /// UTF-8, as every event is.
    Payload(String),
    /// Anything else, in base64.
    PayloadBase64(String),
}

impl Payload {
    /// Wraps the bytes of a message.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|e| Payload::PayloadBase64(BASE64.encode(e.as_bytes())), Payload::Payload)
    }

    /// The bytes of the message.
    pub fn into_bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        match self {
            Payload::Payload(text) => Ok(text.into_bytes()),
            Payload::PayloadBase64(text) => BASE64.decode(text),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Footer {
    footer: Heads,
}

/// Why an export cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Reading or writing failed.
    #[error("line {line}: {error}")]
    Io {
        /// From 1.
        line: u64,
        /// What failed.
        error: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("line {line}: {reason}")]
    Malformed {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The last line is missing.
    #[error("the export ends after line {0} without its signed heads: it was cut off; export it again")]
    Truncated(u64),
    /// The heads cannot be signed or are not authentic.
    #[error(transparent)]
    Heads(#[from] HeadsError),
}

/// Writes an export, auditing the messages on the way.
#[derive(Debug)]
pub struct Writer<'k, W> {
    out: W,
    keys: &'k KeyRing,
    verifier: Verifier<'k>,
    line: u64,
}

impl<'k, W: Write> Writer<'k, W> {
    /// Starts an export with its first line.
    pub fn new(out: W, keys: &'k KeyRing, services: Vec<Service>, time: OffsetDateTime) -> Result<Self, ExportError> {
        let mut writer = Writer { out, keys, verifier: Verifier::new(keys), line: 0 };
        writer.write_line(&Header { format: FORMAT.to_owned(), version: VERSION, services, time })?;
        Ok(writer)
    }

    /// Writes a message. Those of one service come in the order of its stream.
    pub fn write(&mut self, record: &Record) -> Result<(), ExportError> {
        self.write_line(record)?;
        let malformed = |reason: String| ExportError::Malformed { line: self.line, reason };
        let payload = record.payload.clone().into_bytes().map_err(|e| malformed(e.to_string()))?;
        let Record { service, sequence, subject, .. } = record;
        self.verifier.feed(&[Message { service: *service, sequence: *sequence, subject, payload: &payload }]);
        Ok(())
    }

    /// Writes the signed heads and says what the audit found.
    pub fn finish(mut self, time: OffsetDateTime) -> Result<(W, Report), ExportError> {
        let report = std::mem::replace(&mut self.verifier, Verifier::new(self.keys)).finish();
        let footer = Heads::sign(self.keys, report.heads.clone(), time)?;
        self.write_line(&Footer { footer })?;
        self.out.flush().map_err(|error| ExportError::Io { line: self.line, error })?;
        Ok((self.out, report))
    }

    fn write_line(&mut self, value: &impl Serialize) -> Result<(), ExportError> {
        self.line += 1;
        let line = self.line;
        let mut text = serde_json::to_vec(value).map_err(|e| ExportError::Malformed { line, reason: e.to_string() })?;
        text.push(b'\n');
        self.out.write_all(&text).map_err(|error| ExportError::Io { line, error })
    }
}

/// Reads an export: an iterator over its messages, then its heads.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    heads: Option<Heads>,
    line: u64,
    done: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    pub fn new(mut input: R) -> Result<Self, ExportError> {
        let text = read_line(&mut input, 1)?.ok_or(ExportError::Truncated(0))?;
        let malformed = |reason: String| ExportError::Malformed { line: 1, reason };
        let header: Header = serde_json::from_str(&text)
            .map_err(|e| malformed(format!("this is no log export, or its first line is damaged: {e}")))?;
        if header.format != FORMAT || header.version != VERSION {
            return Err(malformed(format!(
                "this is '{}' version {}, but only '{FORMAT}' version {VERSION} can be read",
                header.format, header.version
            )));
        }
        Ok(Reader { input, header, heads: None, line: 1, done: false })
    }

    /// The first line.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Number of the line read last, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The heads, once all messages are read. Their signature is not checked yet.
    #[must_use]
    pub fn heads(&self) -> Option<&Heads> {
        self.heads.as_ref()
    }

    fn read(&mut self) -> Result<Option<Record>, ExportError> {
        let line = self.line + 1;
        let Some(text) = read_line(&mut self.input, line)? else {
            return if self.heads.is_some() { Ok(None) } else { Err(ExportError::Truncated(self.line)) };
        };
        self.line = line;
        if self.heads.is_some() {
            return Err(ExportError::Malformed { line, reason: "nothing may follow the signed heads".to_owned() });
        }
        if text.starts_with("{\"footer\":") {
            let footer: Footer = serde_json::from_str(&text).map_err(|e| malformed(line, "signed heads", &e))?;
            self.heads = Some(footer.footer);
            return self.read();
        }
        serde_json::from_str(&text).map(Some).map_err(|e| malformed(line, "message", &e))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, ExportError>;

    /// The next message; after an error nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let read = self.read().transpose();
        self.done = !matches!(read, Some(Ok(_)));
        read
    }
}

fn malformed(line: u64, what: &str, error: &serde_json::Error) -> ExportError {
    // The error's own line is always 1; its column says where in this line.
    ExportError::Malformed { line, reason: format!("the {what} cannot be read at column {}: {error}", error.column()) }
}

fn read_line(input: &mut impl BufRead, line: u64) -> Result<Option<String>, ExportError> {
    let mut text = Vec::new();
    let limit = MAX_LINE as u64 + 1;
    let read = std::io::Read::take(input, limit).read_until(b'\n', &mut text);
    let read = read.map_err(|error| ExportError::Io { line, error })?;
    if read == 0 {
        return Ok(None);
    }
    if text.len() > MAX_LINE {
        let reason = format!("the line is longer than {MAX_LINE} bytes");
        return Err(ExportError::Malformed { line, reason });
    }
    let text = String::from_utf8(text);
    text.map(Some).map_err(|_| ExportError::Malformed { line, reason: "the line is no UTF-8".to_owned() })
}
