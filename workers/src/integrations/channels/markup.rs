//! CommonMark as Telegram's HTML (Bot API, "HTML style"), in parts that are no longer than a message may be. A part ends between
//! paragraphs where it can, else between lines, else between words; what is bold across the cut is bold on both sides.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use symbia_commands::integrations::ChannelFormat;

/// Most UTF-16 units of a message. The marks are counted as well, which Telegram does not.
pub(super) const LIMIT: usize = 4096;
const BETWEEN: &str = "\n\n";

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// With its marks.
    pub html: String,
    /// Without.
    pub plain: String,
}

enum Piece {
    Open(String, &'static str),
    Close,
    Text(String),
}

type Block = Vec<Piece>;

/// The messages that say a text.
pub(super) fn parts(text: &str, format: ChannelFormat) -> Vec<Part> {
    let blocks = match format {
        ChannelFormat::Markdown => Reading::default().read(text),
        ChannelFormat::Plain => text.split(BETWEEN).map(|block| vec![Piece::Text(block.to_owned())]).collect(),
    };
    let mut packing = Packing::default();
    for block in blocks {
        packing.add(block);
    }
    packing.flush();
    packing.parts
}

fn escaped(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        _ => None,
    }
}

fn units(c: char) -> usize {
    escaped(c).map_or_else(|| c.len_utf16(), str::len)
}

fn length(text: &str) -> usize {
    text.chars().map(units).sum()
}

fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match escaped(c) {
            Some(entity) => html.push_str(entity),
            None => html.push(c),
        }
    }
    html
}

/// Reads CommonMark into blocks.
#[derive(Default)]
struct Reading {
    blocks: Vec<Block>,
    block: Block,
    // The number of the next item of each list that is open; none where they have no numbers.
    lists: Vec<Option<u64>>,
    quotes: usize,
}

impl Reading {
    fn read(mut self, text: &str) -> Vec<Block> {
        for event in Parser::new_ext(text, Options::ENABLE_STRIKETHROUGH) {
            match event {
                Event::Start(tag) => self.start(tag),
                Event::End(tag) => self.end(tag),
                Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
                Event::Code(text) => {
                    self.open("<code>", "</code>");
                    self.text(&text);
                    self.block.push(Piece::Close);
                }
                Event::SoftBreak | Event::HardBreak => self.text("\n"),
                Event::Rule => {
                    self.text("———");
                    self.ended();
                }
                Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => self.text(&text),
                Event::TaskListMarker(done) => self.text(if done { "[x] " } else { "[ ] " }),
            }
        }
        self.finish();
        self.blocks
    }

    fn open(&mut self, html: impl Into<String>, close: &'static str) {
        self.block.push(Piece::Open(html.into(), close));
    }

    fn text(&mut self, text: &str) {
        self.block.push(Piece::Text(text.to_owned()));
    }

    fn says_something(&self) -> bool {
        self.block.iter().any(|piece| matches!(piece, Piece::Text(_)))
    }

    fn finish(&mut self) {
        if self.says_something() {
            self.blocks.push(std::mem::take(&mut self.block));
        }
        self.block.clear();
    }

    // In a list or a quotation, what is one paragraph here is a line of a larger block.
    fn ended(&mut self) {
        if self.lists.is_empty() && self.quotes == 0 {
            self.finish();
        } else if self.quotes > 0 && self.lists.is_empty() {
            self.text("\n");
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { .. } | Tag::Strong => self.open("<b>", "</b>"),
            Tag::Emphasis => self.open("<i>", "</i>"),
            Tag::Strikethrough => self.open("<s>", "</s>"),
            Tag::BlockQuote(_) => {
                self.quotes += 1;
                // One in another would be refused.
                if self.quotes == 1 {
                    self.open("<blockquote>", "</blockquote>");
                }
            }
            Tag::CodeBlock(kind) => {
                if !self.lists.is_empty() {
                    self.text("\n");
                }
                match kind {
                    CodeBlockKind::Fenced(language) if !language.is_empty() => {
                        let language = escape(language.split_whitespace().next().unwrap_or_default());
                        self.open(format!("<pre><code class=\"language-{language}\">"), "</code></pre>");
                    }
                    _ => self.open("<pre>", "</pre>"),
                }
            }
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                let leads = ["http://", "https://", "mailto:", "tg://"].iter().any(|way| dest_url.starts_with(way));
                let long = length(&dest_url) > LIMIT / 2;
                if leads && !long {
                    self.open(format!("<a href=\"{}\">", escape(&dest_url)), "</a>");
                } else {
                    self.open("", "");
                }
            }
            Tag::List(first) => self.lists.push(first),
            Tag::Item => self.item(),
            _ => {}
        }
    }

    fn item(&mut self) {
        let depth = self.lists.len().saturating_sub(1);
        let mark = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number += 1;
                format!("{}. ", *number - 1)
            }
            _ => "• ".to_owned(),
        };
        let line = if self.says_something() { "\n" } else { "" };
        self.text(&format!("{line}{}{mark}", "  ".repeat(depth)));
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.ended(),
            TagEnd::Heading(_) => {
                self.block.push(Piece::Close);
                self.ended();
            }
            TagEnd::CodeBlock => {
                if let Some(Piece::Text(code)) = self.block.last_mut() {
                    code.truncate(code.trim_end_matches('\n').len());
                }
                self.block.push(Piece::Close);
                self.ended();
            }
            TagEnd::BlockQuote(_) => {
                self.quotes -= 1;
                if self.quotes == 0 {
                    if matches!(self.block.last(), Some(Piece::Text(text)) if text == "\n") {
                        self.block.pop();
                    }
                    self.block.push(Piece::Close);
                    self.ended();
                }
            }
            TagEnd::Strong | TagEnd::Emphasis | TagEnd::Strikethrough | TagEnd::Link | TagEnd::Image => {
                self.block.push(Piece::Close);
            }
            TagEnd::List(_) => {
                self.lists.pop();
                self.ended();
            }
            _ => {}
        }
    }
}

/// Fills messages with blocks.
#[derive(Default)]
struct Packing {
    parts: Vec<Part>,
    part: Part,
    length: usize,
    open: Vec<(String, &'static str)>,
}

impl Packing {
    fn add(&mut self, block: Block) {
        let size: usize = block
            .iter()
            .scan(Vec::new(), |open, piece| {
                Some(match piece {
                    Piece::Open(html, close) => {
                        open.push(close.len());
                        html.len()
                    }
                    Piece::Close => open.pop().unwrap_or_default(),
                    Piece::Text(text) => length(text),
                })
            })
            .sum();
        if self.length > 0 && self.length + BETWEEN.len() + size > LIMIT {
            self.flush();
        } else if self.length > 0 {
            self.write(BETWEEN);
        }
        for piece in block {
            match piece {
                Piece::Open(html, close) => self.begin(html, close),
                Piece::Close => self.end(),
                Piece::Text(text) => self.text(&text),
            }
        }
    }

    fn write(&mut self, text: &str) {
        self.part.html.push_str(&escape(text));
        self.part.plain.push_str(text);
        self.length += length(text);
    }

    // What the marks take that are still to be closed.
    fn closing(&self) -> usize {
        self.open.iter().map(|(_, close)| close.len()).sum()
    }

    fn room(&self) -> usize {
        LIMIT.saturating_sub(self.length + self.closing())
    }

    fn begin(&mut self, html: String, close: &'static str) {
        if self.room() < html.len() + close.len() + 1 {
            self.cut();
        }
        self.part.html.push_str(&html);
        self.length += html.len();
        self.open.push((html, close));
    }

    fn end(&mut self) {
        if let Some((_, close)) = self.open.pop() {
            self.part.html.push_str(close);
            self.length += close.len();
        }
    }

    fn text(&mut self, mut text: &str) {
        loop {
            let (room, mut taken, mut fits) = (self.room(), 0, 0);
            for (at, c) in text.char_indices() {
                taken += units(c);
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
            self.part.html.push_str(close);
        }
        self.flush();
        for (html, close) in open {
            self.part.html.push_str(&html);
            self.length += html.len();
            self.open.push((html, close));
        }
    }

    fn flush(&mut self) {
        let part = std::mem::take(&mut self.part);
        self.length = 0;
        if !part.plain.trim().is_empty() {
            self.parts.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn html(text: &str) -> Vec<String> {
        parts(text, ChannelFormat::Markdown).into_iter().map(|part| part.html).collect()
    }

    #[test]
    fn commonmark_is_written_as_telegram_reads_it() {
        for (text, expected) in [
            ("Hi **you** & _me_ <b>", "Hi <b>you</b> &amp; <i>me</i> &lt;b&gt;"),
            ("# Title\n\na `b<c` d", "<b>Title</b>\n\na <code>b&lt;c</code> d"),
            ("- one\n- two\n  1. deep\n", "• one\n• two\n  1. deep"),
            ("```rust\nlet a = 1 < 2;\n```", "<pre><code class=\"language-rust\">let a = 1 &lt; 2;</code></pre>"),
            ("> said\n> twice", "<blockquote>said\ntwice</blockquote>"),
            ("[here](https://x.example/?a=1&b=2)", "<a href=\"https://x.example/?a=1&amp;b=2\">here</a>"),
            ("[x](javascript:alert(1))", "x"),
            ("1 + 1 = 2! (a.b) {c} ~d | e-f #g", "1 + 1 = 2! (a.b) {c} ~d | e-f #g"),
        ] {
            assert_eq!(html(text), [expected], "{text}");
        }
        assert_eq!(parts(" \n", ChannelFormat::Markdown), []);
    }

    #[test]
    fn a_long_text_is_cut_between_paragraphs_and_a_long_paragraph_between_words() {
        let paragraph = "word ".repeat(300);
        let text = [paragraph.trim(); 4].join("\n\n");
        let cut = html(&text);
        let two = [paragraph.trim(); 2].join("\n\n");
        assert_eq!(cut, [two.clone(), two]);
        let bold = format!("**{}**", "word ".repeat(1200).trim());
        let cut = html(&bold);
        assert_eq!(cut.len(), 2);
        assert!(cut.iter().all(|part| part.starts_with("<b>word") && part.ends_with("word</b>")), "{cut:?}");
        assert_eq!(html(&"x".repeat(LIMIT + 1)).iter().map(String::len).collect::<Vec<_>>(), [LIMIT, 1]);
    }

    proptest! {
        #[test]
        fn no_part_is_too_long_and_nothing_that_is_said_is_lost(
            text in "[a-z&<*_`\\n #>~é😀-]{0,400}", times in 1usize..60, plain: bool,
        ) {
            let format = if plain { ChannelFormat::Plain } else { ChannelFormat::Markdown };
            let text = format!("{text} ").repeat(times);
            let parts = parts(&text, format);
            prop_assert!(parts.iter().all(|part| part.html.encode_utf16().count() <= LIMIT));
            let letters = |text: &str| text.chars().filter(char::is_ascii_lowercase).count();
            let said: usize = parts.iter().map(|part| letters(&part.plain)).sum();
            // An info string of a code block is a mark.
            if plain || !text.contains("```") && !text.contains("~~~") {
                prop_assert_eq!(said, letters(&text));
            }
        }
    }
}
