//! From tokens' bytes to text that may be shown: whole characters, and never a part of a stop string.

/// The tail of an answer that cannot be shown yet.
#[derive(Debug, Default)]
pub struct Output {
    stop: Vec<String>,
    /// The beginning of a character.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What a token adds.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Text to show; may be empty.
    pub text: String,
    /// Whether a stop string ended the answer.
    pub stopped: bool,
}

impl Output {
    /// An empty answer that ends at any of `stop`; empty stop strings mean nothing.
    pub fn new(stop: Vec<String>) -> Self {
        Self { stop: stop.into_iter().filter(|stop| !stop.is_empty()).collect(), ..Self::default() }
    }

    /// Adds a token's bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Piece {
        self.partial.extend_from_slice(bytes);
        self.decode(false);
        self.release()
    }

    /// The answer has ended: what is left to show.
    pub fn finish(&mut self) -> Piece {
        self.decode(true);
        let mut piece = self.release();
        piece.text.push_str(&std::mem::take(&mut self.held));
        piece
    }

    /// Moves whole characters to `held`; bytes that can be no character become U+FFFD.
    fn decode(&mut self, end: bool) {
        let bytes = std::mem::take(&mut self.partial);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.held.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let may_continue = chunks.peek().is_none()
                && matches!(std::str::from_utf8(invalid), Err(error) if error.error_len().is_none());
            if may_continue && !end {
                self.partial = invalid.to_vec();
            } else {
                self.held.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    fn release(&mut self) -> Piece {
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let text = self.held[..at].to_owned();
            self.held.clear();
            self.partial.clear();
            return Piece { text, stopped: true };
        }
        let keep = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - keep);
        Piece { text: std::mem::replace(&mut self.held, kept), stopped: false }
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
pub(super) fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len());
    (1..=longest)
        .rev()
        .find(|len| stop.is_char_boundary(*len) && text.as_bytes().ends_with(&stop.as_bytes()[..*len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stop: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut output = Output::new(stop.iter().map(|stop| (*stop).to_owned()).collect());
        let mut texts = Vec::new();
        for bytes in pieces {
            let piece = output.push(bytes);
            texts.push(piece.text);
            if piece.stopped {
                return (texts, true);
            }
        }
        texts.push(output.finish().text);
        (texts, false)
    }

    #[test]
    fn a_character_split_over_tokens_is_shown_whole() {
        let euro = "€".as_bytes();
        assert_eq!(shown(&[], &[b"1", &euro[..1], &euro[1..2], &euro[2..]]).0, ["1", "", "", "€", ""]);
        assert_eq!(shown(&[], &[&euro[..2]]).0, ["", "\u{fffd}"], "an unfinished character at the end");
        assert_eq!(shown(&[], &[b"a\xffb"]).0, ["a\u{fffd}b", ""], "a byte that is no character");
    }

    #[test]
    fn a_stop_string_is_never_shown_in_part() {
        assert_eq!(shown(&["END"], &[b"one E", b"N", b"D two"]), (vec!["one ".into(), "".into(), "".into()], true));
        assert_eq!(
            shown(&["END"], &[b"one E", b"NTER"]).0,
            ["one ", "ENTER", ""],
            "a beginning that goes on otherwise"
        );
        assert_eq!(shown(&["END"], &[b"the EN"]).0, ["the ", "EN"], "a beginning at the end of the answer");
        assert_eq!(shown(&["b", "ab"], &[b"xab"]), (vec!["x".into()], true), "the earliest of two");
        assert_eq!(shown(&["ü!"], &["aü".as_bytes(), b"!"]), (vec!["a".into(), "".into()], true));
        assert_eq!(shown(&[""], &[b"a"]).0, ["a", ""], "an empty one means nothing");
    }
}
