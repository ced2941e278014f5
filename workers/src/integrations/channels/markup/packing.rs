//! Filling messages with blocks: none is longer than its messenger takes.

use super::{BETWEEN, Block, Part, Piece, Style};

/// Fills messages with blocks.
pub struct Packing {
    style: &'static Style,
    pub parts: Vec<Part>,
    part: Part,
    length: usize,
    open: Vec<(String, &'static str)>,
}

impl Packing {
    pub fn new(style: &'static Style) -> Self {
        Packing { style, parts: Vec::new(), part: Part::default(), length: 0, open: Vec::new() }
    }

    pub fn add(&mut self, block: Block) {
        let style = self.style;
        let size: usize = block
            .iter()
            .scan(Vec::new(), |open, piece| {
                Some(match piece {
                    Piece::Open(mark, close) => {
                        open.push(close.len());
                        mark.len()
                    }
                    Piece::Close => open.pop().unwrap_or_default(),
                    Piece::Text(text) => style.length(text),
                })
            })
            .sum();
        if self.length > 0 && self.length + BETWEEN.len() + size > style.limit {
            self.flush();
        } else if self.length > 0 {
            self.write(BETWEEN);
        }
        for piece in block {
            match piece {
                Piece::Open(mark, close) => self.begin(mark, close),
                Piece::Close => self.end(),
                Piece::Text(text) => self.text(&text),
            }
        }
    }

    fn write(&mut self, text: &str) {
        // Counted as if it were escaped: too much rather than too little.
        let as_it_is = self.style.verbatim && self.open.iter().any(|(_, close)| self.style.is_code(close));
        if as_it_is {
            self.part.marked.push_str(text);
        } else {
            self.part.marked.push_str(&self.style.escape(text));
        }
        self.part.plain.push_str(text);
        self.length += self.style.length(text);
    }

    // What the marks take that are still to be closed.
    fn closing(&self) -> usize {
        self.open.iter().map(|(_, close)| close.len()).sum()
    }

    fn room(&self) -> usize {
        self.style.limit.saturating_sub(self.length + self.closing())
    }

    fn begin(&mut self, mark: String, close: &'static str) {
        if self.room() < mark.len() + close.len() + 1 {
            self.cut();
        }
        self.part.marked.push_str(&mark);
        self.length += mark.len();
        self.open.push((mark, close));
    }

    fn end(&mut self) {
        if let Some((_, close)) = self.open.pop() {
            self.part.marked.push_str(close);
            self.length += close.len();
        }
    }

    fn text(&mut self, mut text: &str) {
        loop {
            let (room, mut taken, mut fits) = (self.room(), 0, 0);
            for (at, c) in text.char_indices() {
                taken += self.style.units(c);
                if taken > room {
                    break;
                }
                fits = at + c.len_utf8();
            }
            if fits == text.len() {
                return self.write(text);
            }
            let (head, _) = text.split_at(fits);
            let place = head.rfind('\n').or_else(|| head.rfind(char::is_whitespace)).filter(|place| *place > 0);
            let place = match place {
                Some(place) => place,
                // The word fits into the next message, or into none.
                None if !self.part.plain.is_empty() => 0,
                None => fits.max(text.chars().next().map_or(0, char::len_utf8)),
            };
            let (head, rest) = text.split_at(place);
            self.write(head);
            self.cut();
            text = rest.strip_prefix(|c: char| c.is_whitespace()).unwrap_or(rest);
        }
    }

    // The rest goes into another message, under the same marks.
    fn cut(&mut self) {
        let open = std::mem::take(&mut self.open);
        for (_, close) in open.iter().rev() {
            self.part.marked.push_str(close);
        }
        self.flush();
        for (mark, close) in open {
            self.part.marked.push_str(&mark);
            self.length += mark.len();
            self.open.push((mark, close));
        }
    }

    pub fn flush(&mut self) {
        let part = std::mem::take(&mut self.part);
        self.length = 0;
        if !part.plain.trim().is_empty() {
            self.parts.push(part);
        }
    }
}
