//! The header of a GGUF file (version 2 and 3, little endian), read with bounds.
//!
//! llama.cpp asserts or throws on some damaged files; what passes here has a complete header and all of its tensors.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const MAX_ENTRIES: u64 = 1 << 20;
const MAX_STRING_KEPT: u64 = 1 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Why a file is no usable GGUF model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("is not a GGUF file: it does not begin with the letters GGUF")]
    Magic,
    #[error("has GGUF version {0}, known are 2 and 3")]
    Version(u32),
    #[error("ends too early: {0} bytes are there; copy or download it again")]
    Truncated(u64),
    #[error("is damaged: {0}; copy or download it again")]
    Damaged(&'static str),
}

/// A metadata value; lists are skipped and keep only their length.
#[derive(Debug, PartialEq)]
pub enum Value {
    Text(String),
    Unsigned(u64),
    Bool(bool),
    List(u64),
    Other,
}

/// The metadata of a complete file.
#[derive(Debug)]
pub struct Header {
    values: HashMap<String, Value>,
    /// Elements of all tensors.
    pub parameters: u64,
}

impl Header {
    /// The text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number under `key`.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key)? {
            Value::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value under `key`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.values.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The length of the list under `key`.
    pub fn list_len(&self, key: &str) -> Option<u64> {
        match self.values.get(key)? {
            Value::List(len) => Some(*len),
            _ => None,
        }
    }
}

/// Reads the header and checks that every tensor lies within the file.
pub fn read(path: &Path) -> Result<Header, Error> {
    let file = File::open(path).map_err(Error::Read)?;
    let size = file.metadata().map_err(Error::Read)?.len();
    let mut reader = Reader { inner: BufReader::with_capacity(1 << 16, file), size, at: 0 };

    if reader.bytes::<4>().ok().as_ref() != Some(b"GGUF") {
        return Err(Error::Magic);
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(Error::Version(version));
    }
    let tensors = reader.count("the number of tensors is impossible")?;
    if tensors == 0 {
        return Err(Error::Damaged("it has no weights"));
    }
    let entries = reader.count("the number of metadata entries is impossible")?;
    let mut values = HashMap::new();
    for _ in 0..entries {
        let key = reader.text()?;
        let kind = reader.u32()?;
        values.insert(key, reader.value(kind)?);
    }
    let mut header = Header { values, parameters: 0 };
    let alignment = header.number("general.alignment").unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(Error::Damaged("the alignment is not a power of two"));
    }

    let mut data_len = 0;
    for _ in 0..tensors {
        let (elements, end) = reader.tensor()?;
        header.parameters = header.parameters.saturating_add(elements);
        data_len = end.max(data_len);
    }
    let end = reader.at.checked_next_multiple_of(alignment).and_then(|start| start.checked_add(data_len));
    match end {
        Some(end) if end <= size => Ok(header),
        _ => Err(Error::Truncated(size)),
    }
}

struct Reader {
    inner: BufReader<File>,
    size: u64,
    at: u64,
}

impl Reader {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.take(N as u64)?;
        self.inner.read_exact(&mut bytes).map_err(Error::Read)?;
        Ok(bytes)
    }

    /// Moves the position on, if the file has so many bytes left.
    fn take(&mut self, len: u64) -> Result<(), Error> {
        if len > self.size - self.at {
            return Err(Error::Truncated(self.size));
        }
        self.at += len;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<(), Error> {
        self.take(len)?;
        let len = i64::try_from(len).map_err(|_| Error::Damaged("a length is impossible"))?;
        self.inner.seek_relative(len).map_err(Error::Read)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn count(&mut self, otherwise: &'static str) -> Result<u64, Error> {
        let count = self.u64()?;
        if count > MAX_ENTRIES { Err(Error::Damaged(otherwise)) } else { Ok(count) }
    }

    fn text(&mut self) -> Result<String, Error> {
        let len = self.u64()?;
        if len > MAX_STRING_KEPT {
            return Err(Error::Damaged("a text is longer than 1 MiB"));
        }
        self.take(len)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| Error::Damaged("a text is too long"))?];
        self.inner.read_exact(&mut bytes).map_err(Error::Read)?;
        String::from_utf8(bytes).map_err(|_| Error::Damaged("a text is not UTF-8"))
    }

    fn value(&mut self, kind: u32) -> Result<Value, Error> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.bytes::<1>()?[0])),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            10 => Value::Unsigned(self.u64()?),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            _ => {
                let width = width(kind).ok_or(Error::Damaged("a metadata value has an unknown type"))?;
                self.skip(width)?;
                Value::Other
            }
        })
    }

    fn list(&mut self) -> Result<Value, Error> {
        let kind = self.u32()?;
        let len = self.u64()?;
        if let Some(width) = width(kind) {
            self.skip(len.checked_mul(width).ok_or(Error::Damaged("a list is impossibly long"))?)?;
        } else if kind == 8 {
            for _ in 0..len {
                let len = self.u64()?;
                self.skip(len)?;
            }
        } else {
            return Err(Error::Damaged("a list holds values of an unknown type"));
        }
        Ok(Value::List(len))
    }

    /// Reads one tensor's description and gives its elements and the end of its data, relative to the first tensor's beginning.
    fn tensor(&mut self) -> Result<(u64, u64), Error> {
        self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(Error::Damaged("a tensor has more than four dimensions"));
        }
        let mut elements: u64 = 1;
        for _ in 0..dimensions {
            let len = self.u64()?;
            elements = elements.checked_mul(len).ok_or(Error::Damaged("a tensor is impossibly large"))?;
        }
        // Of a type newer than this table, only the beginning can be checked.
        let bytes = match block(self.u32()?) {
            Some((len, bytes)) => elements.div_ceil(len).checked_mul(bytes),
            None => Some(0),
        };
        let offset = self.u64()?;
        let end = bytes.and_then(|bytes| offset.checked_add(bytes));
        end.map(|end| (elements, end)).ok_or(Error::Damaged("a tensor is impossibly large"))
    }
}

/// Bytes of a metadata value of fixed width.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Elements and bytes of one block of a tensor type (`ggml.h`, `ggml-common.h`).
fn block(tensor_type: u32) -> Option<(u64, u64)> {
    Some(match tensor_type {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        39 => (32, 17),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(parts: &[&[u8]]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|error| unreachable!("{error}"));
        assert!(std::fs::write(file.path(), parts.concat()).is_ok());
        file
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// Two entries, and one tensor of 4 × 2 f32 that begins `offset` bytes into the data.
    fn header(offset: u64) -> Vec<u8> {
        let number = |number: u64| number.to_le_bytes().to_vec();
        let kind = |kind: u32| kind.to_le_bytes().to_vec();
        [
            [b"GGUF".to_vec(), kind(3), number(1), number(2)].concat(),
            [text("general.architecture"), kind(8), text("llama")].concat(),
            [text("tokenizer.ggml.tokens"), kind(9), kind(8), number(2), text("a"), text("bc")].concat(),
            [text("weight"), kind(2), number(4), number(2), kind(0), number(offset)].concat(),
        ]
        .concat()
    }

    #[test]
    fn a_complete_file_is_read_and_every_shorter_one_is_refused() {
        let mut whole = header(32);
        whole.resize(whole.len().next_multiple_of(32) + 32 + 4 * 2 * 4, 0);
        let header = read(file(&[&whole]).path());
        let header = header.as_ref().ok();
        assert_eq!(header.and_then(|header| header.text("general.architecture")), Some("llama"));
        assert_eq!(header.and_then(|header| header.list_len("tokenizer.ggml.tokens")), Some(2));
        for len in 0..whole.len() {
            assert!(read(file(&[&whole[..len]]).path()).is_err(), "{len} of {} bytes", whole.len());
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let whole = header(0);
        let description = whole.len() - (text("weight").len() + 4 + 16 + 4 + 8);
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                // Only a damaged description can hide that the tensor's data is missing.
                assert!(read(file(&[&damaged]).path()).is_err() || at >= description, "byte {at} as {byte}");
            }
        }
    }
}
