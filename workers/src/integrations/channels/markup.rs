//! CommonMark as messengers read it, in parts that are no longer than a message may be. A part ends between paragraphs where it
//! can, else between lines, else between words; what is bold across the cut is bold on both sides.

mod packing;
mod style;

pub(super) use style::{DISCORD_MARKDOWN, MAIL_HTML, MAIL_TEXT, SLACK_MRKDWN, Style, TELEGRAM_HTML, WHATSAPP};

use packing::Packing;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use style::Marks;
use symbia_commands::integrations::ChannelFormat;

/// Between blocks.
const BETWEEN: &str = "\n\n";

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// With its marks.
    pub marked: String,
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
pub(super) fn parts(text: &str, format: ChannelFormat, style: &'static Style) -> Vec<Part> {
    let blocks = match format {
        ChannelFormat::Markdown => Reading::new(style).read(text),
        ChannelFormat::Plain => text.split(BETWEEN).map(|block| vec![Piece::Text(block.to_owned())]).collect(),
    };
    let mut packing = Packing::new(style);
    for block in blocks {
        packing.add(block);
    }
    packing.flush();
    packing.parts
}

/// Reads CommonMark into blocks.
struct Reading {
    style: &'static Style,
    blocks: Vec<Block>,
    block: Block,
    // The number of the next item of each list that is open; none where they have no numbers.
    lists: Vec<Option<u64>>,
    quotes: usize,
    bolds: usize,
    // The address of each link that is open and stands behind it.
    bare: Vec<Option<String>>,
}

impl Reading {
    fn new(style: &'static Style) -> Self {
        let (blocks, block, lists) = (Vec::new(), Vec::new(), Vec::new());
        Reading { style, blocks, block, lists, quotes: 0, bolds: 0, bare: Vec::new() }
    }

    fn read(mut self, text: &str) -> Vec<Block> {
        for event in Parser::new_ext(text, Options::ENABLE_STRIKETHROUGH) {
            match event {
                Event::Start(tag) => self.start(tag),
                Event::End(tag) => self.end(tag),
                Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
                Event::Code(text) => {
                    self.mark(self.style.code);
                    self.text(&text);
                    self.block.push(Piece::Close);
                }
                Event::SoftBreak | Event::HardBreak => self.text(self.line()),
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

    fn open(&mut self, mark: impl Into<String>, close: &'static str) {
        self.block.push(Piece::Open(mark.into(), close));
    }

    fn mark(&mut self, (open, close): Marks) {
        self.open(open, close);
    }

    // What begins a line.
    fn line(&self) -> &'static str {
        if self.quotes > 0 && self.style.quote.is_none() { "\n> " } else { "\n" }
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
            self.text(self.line());
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { .. } | Tag::Strong => {
                // Bold in bold is bold.
                self.mark(if self.bolds == 0 { self.style.bold } else { ("", "") });
                self.bolds += 1;
            }
            Tag::Emphasis => self.mark(self.style.italic),
            Tag::Strikethrough => self.mark(self.style.struck),
            Tag::BlockQuote(_) => {
                self.quotes += 1;
                match self.style.quote {
                    // One in another would be refused.
                    _ if self.quotes > 1 => {}
                    Some(marks) => self.mark(marks),
                    None => self.text("> "),
                }
            }
            Tag::CodeBlock(kind) => self.code_block(&kind),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => self.link(&dest_url),
            Tag::List(first) => self.lists.push(first),
            Tag::Item => self.item(),
            _ => {}
        }
    }

    fn code_block(&mut self, kind: &CodeBlockKind<'_>) {
        if !self.lists.is_empty() {
            self.text(self.line());
        }
        match (kind, self.style.block_in) {
            (CodeBlockKind::Fenced(language), Some((before, between, close))) if !language.is_empty() => {
                let language = self.style.escape(language.split_whitespace().next().unwrap_or_default());
                self.open(format!("{before}{language}{between}"), close);
            }
            _ => self.mark(self.style.block),
        }
    }

    fn link(&mut self, url: &str) {
        let leads = ["http://", "https://", "mailto:", "tg://"].iter().any(|way| url.starts_with(way));
        let long = self.style.length(url) > self.style.limit / 2;
        let (before, between, close) = self.style.link;
        self.bare.push((self.style.bare_links && leads && !long).then(|| url.to_owned()));
        if self.style.bare_links {
            self.mark(("", ""));
        } else if leads && !long && !url.contains(self.style.unlinked) {
            self.open(format!("{before}{}{between}", self.style.escape(url)), close);
        } else {
            self.mark(("", ""));
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
        let line = if self.says_something() { self.line() } else { "" };
        self.text(&format!("{line}{}{mark}", "  ".repeat(depth)));
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.ended(),
            TagEnd::Heading(_) => {
                self.bolds -= 1;
                self.block.push(Piece::Close);
                self.ended();
            }
            TagEnd::Strong => {
                self.bolds -= 1;
                self.block.push(Piece::Close);
            }
            TagEnd::CodeBlock => {
                if let Some(Piece::Text(code)) = self.block.last_mut() {
                    code.truncate(code.trim_end_matches('\n').len());
                }
                self.block.push(Piece::Close);
                self.ended();
            }
            TagEnd::BlockQuote(_) => self.end_of_quote(),
            TagEnd::Link | TagEnd::Image => {
                self.block.push(Piece::Close);
                let address = self.bare.pop().flatten();
                let said = self.block.iter().rev().nth(1);
                if let Some(address) = address.filter(|url| !matches!(said, Some(Piece::Text(text)) if text == url)) {
                    self.text(&format!(" ({address})"));
                }
            }
            TagEnd::Emphasis | TagEnd::Strikethrough => self.block.push(Piece::Close),
            TagEnd::List(_) => {
                self.lists.pop();
                self.ended();
            }
            _ => {}
        }
    }

    fn end_of_quote(&mut self) {
        let line = self.line();
        self.quotes -= 1;
        if self.quotes > 0 {
            return;
        }
        if matches!(self.block.last(), Some(Piece::Text(text)) if text == line) {
            self.block.pop();
        }
        if self.style.quote.is_some() {
            self.block.push(Piece::Close);
        }
        self.ended();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marked(text: &str, style: &'static Style) -> Vec<String> {
        parts(text, ChannelFormat::Markdown, style).into_iter().map(|part| part.marked).collect()
    }

    fn html(text: &str) -> Vec<String> {
        marked(text, &TELEGRAM_HTML)
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
        assert_eq!(parts(" \n", ChannelFormat::Markdown, &TELEGRAM_HTML), []);
    }

    #[test]
    fn commonmark_is_written_as_slack_reads_it() {
        for (text, expected) in [
            ("Hi **you** & _me_ ~~no~~ <b>", "Hi *you* &amp; _me_ ~no~ &lt;b&gt;"),
            ("# A **bold** title\n\na `b<c` d", "*A bold title*\n\na `b&lt;c` d"),
            ("- one\n- two\n  1. deep\n", "• one\n• two\n  1. deep"),
            ("```rust\nlet a = 1 < 2;\n```", "```\nlet a = 1 &lt; 2;\n```"),
            ("> said\n> twice\n\nand so on", "&gt; said\n&gt; twice\n\nand so on"),
            ("[here](https://x.example/?a=1&b=2)", "<https://x.example/?a=1&amp;b=2|here>"),
            ("[here](https://x.example/a|b)", "here"),
        ] {
            assert_eq!(marked(text, &SLACK_MRKDWN), [expected], "{text}");
        }
        let cut = marked(&format!("**{}**", "word ".repeat(1200).trim()), &SLACK_MRKDWN);
        assert!(cut.len() == 2 && cut.iter().all(|part| part.starts_with("*word") && part.ends_with("word*")));
    }

    #[test]
    fn commonmark_is_written_as_discord_reads_it() {
        for (text, expected) in [
            ("Hi **you** & *me* ~~no~~ 1 * 2", "Hi **you** & *me* ~~no~~ 1 \\* 2"),
            ("# T\n\n`a_b` a_b", "**T**\n\n`a_b` a\\_b"),
            ("```rust\nlet a_b = 1;\n```", "```rust\nlet a_b = 1;\n```"),
            ("> said\n> twice", "> said\n> twice"),
            ("[here](https://x.example/a_b) <@1>", "here (https://x.example/a_b) \\<@1>"),
        ] {
            assert_eq!(marked(text, &DISCORD_MARKDOWN), [expected], "{text}");
        }
        let cut = marked(&"word ".repeat(1000), &DISCORD_MARKDOWN);
        assert!(cut.len() == 3 && cut.iter().all(|part| part.len() <= 2000), "{}", cut.len());
    }

    #[test]
    fn commonmark_is_written_as_whatsapp_reads_it() {
        for (text, expected) in [
            ("Hi **you** & _me_ ~~no~~ <b>", "Hi *you* & _me_ ~no~ <b>"),
            (
                "[here](https://x.example/?a=1&b=2) and <https://y.example>",
                "here (https://x.example/?a=1&b=2) and https://y.example",
            ),
            ("[**x** y](https://x.example)", "*x* y (https://x.example)"),
            ("[x](javascript:alert(1))", "x"),
        ] {
            assert_eq!(marked(text, &WHATSAPP), [expected], "{text}");
        }
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
        assert_eq!(
            html(&"x".repeat(TELEGRAM_HTML.limit + 1)).iter().map(String::len).collect::<Vec<_>>(),
            [TELEGRAM_HTML.limit, 1]
        );
    }

    proptest! {
        #[test]
        fn no_part_is_too_long_and_nothing_that_is_said_is_lost(
            text in "[a-z&<*_`\\n #>~é😀-]{0,400}", times in 1usize..60, plain: bool, which in 0usize..4,
        ) {
            let format = if plain { ChannelFormat::Plain } else { ChannelFormat::Markdown };
            let text = format!("{text} ").repeat(times);
            let style = [&TELEGRAM_HTML, &SLACK_MRKDWN, &WHATSAPP, &DISCORD_MARKDOWN][which];
            let parts = parts(&text, format, style);
            prop_assert!(parts.iter().all(|part| part.marked.encode_utf16().count() <= style.limit));
            let letters = |text: &str| text.chars().filter(char::is_ascii_lowercase).count();
            let said: usize = parts.iter().map(|part| letters(&part.plain)).sum();
            // An info string of a code block is a mark.
            if plain || !text.contains("```") && !text.contains("~~~") {
                prop_assert_eq!(said, letters(&text));
            }
        }
    }
}
