//! Server-sent events as a client reads them (WHATWG HTML §9.2.6): frames from bytes that arrive in any pieces, in
//! bounded memory.

/// Longest frame in bytes.
pub const MAX_FRAME: usize = 1024 * 1024;

/// A frame is longer than [`MAX_FRAME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of the stream is longer than {MAX_FRAME} bytes")]
pub struct TooLong;

/// Puts frames together. Only `data` is of interest here.
#[derive(Debug, Default)]
pub struct Frames {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
}

impl Frames {
    /// The data of the frames that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut frames = Vec::new();
        for byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                // The second half of a CR LF.
                b'\n' if after_cr => {}
                b'\r' | b'\n' => {
                    self.after_cr = *byte == b'\r';
                    frames.extend(self.end_line());
                }
                byte => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > MAX_FRAME {
                return Err(TooLong);
            }
        }
        Ok(frames)
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let value = line.strip_prefix(b"data")?;
        let value = if value.is_empty() { value } else { value.strip_prefix(b":")? };
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": ping\n\ndata: one\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata\n\ndatum: no\n\nid: 7\ndata: \xc3\xa9\r\rdata: half";

    #[test]
    fn frames_come_out_the_same_however_the_bytes_arrive() {
        let expected: [&[u8]; 4] = [b"one", b"two\nlines", b"", "é".as_bytes()];
        for size in 1..STREAM.len() {
            let mut frames = Frames::default();
            let got: Vec<Vec<u8>> = STREAM.chunks(size).flat_map(|c| frames.push(c).unwrap()).collect();
            assert_eq!(got, expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_frame_without_end_is_refused() {
        let mut frames = Frames::default();
        let endless = std::iter::repeat_n(b"data: x\n".as_slice(), MAX_FRAME);
        assert!(endless.map(|piece| frames.push(piece)).any(|result| result == Err(TooLong)));
        assert_eq!(Frames::default().push(&vec![b'x'; MAX_FRAME + 1]), Err(TooLong));
    }
}
