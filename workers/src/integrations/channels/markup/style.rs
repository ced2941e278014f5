//! How messengers read marks.

/// What stands before and after what is marked.
pub(super) type Marks = (&'static str, &'static str);

/// How a messenger reads marks.
pub struct Style {
    /// Most UTF-16 units of a message; marks are counted as well.
    pub limit: usize,
    pub bold: Marks,
    pub italic: Marks,
    pub struck: Marks,
    pub code: Marks,
    pub block: Marks,
    /// A block of code with its language; absent: there is no such thing.
    pub block_in: Option<Marks3>,
    /// Absent: each line of a quotation begins with `> `.
    pub quote: Option<Marks>,
    pub link: Marks3,
    /// What stands in no link.
    pub unlinked: &'static [char],
    /// There are no links: the address stands behind what is linked.
    pub bare_links: bool,
    /// Code and addresses stand there as they are.
    pub verbatim: bool,
    escaped: fn(char) -> Option<&'static str>,
}

/// Before the address or language, between it and what is marked, and behind.
pub(super) type Marks3 = (&'static str, &'static str, &'static str);

/// Telegram's HTML (Bot API, "HTML style").
pub static TELEGRAM_HTML: Style = Style {
    limit: 4096,
    bold: ("<b>", "</b>"),
    italic: ("<i>", "</i>"),
    struck: ("<s>", "</s>"),
    code: ("<code>", "</code>"),
    block: ("<pre>", "</pre>"),
    block_in: Some(("<pre><code class=\"language-", "\">", "</code></pre>")),
    quote: Some(("<blockquote>", "</blockquote>")),
    link: ("<a href=\"", "\">", "</a>"),
    unlinked: &[],
    bare_links: false,
    verbatim: false,
    escaped: |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        _ => None,
    },
};

/// Slack's mrkdwn.
pub static SLACK_MRKDWN: Style = Style {
    limit: 4000,
    bold: ("*", "*"),
    italic: ("_", "_"),
    struck: ("~", "~"),
    code: ("`", "`"),
    block: ("```\n", "\n```"),
    block_in: None,
    quote: None,
    link: ("<", "|", ">"),
    unlinked: &['|', '>'],
    bare_links: false,
    verbatim: false,
    escaped: |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    },
};

/// WhatsApp's way of writing. Nothing is escaped there.
pub static WHATSAPP: Style = Style {
    limit: 4096,
    bold: ("*", "*"),
    italic: ("_", "_"),
    struck: ("~", "~"),
    code: ("`", "`"),
    block: ("```\n", "\n```"),
    block_in: None,
    quote: None,
    link: ("", "", ""),
    unlinked: &[],
    bare_links: true,
    verbatim: false,
    escaped: |_| None,
};

/// Discord's Markdown.
pub static DISCORD_MARKDOWN: Style = Style {
    limit: 2000,
    bold: ("**", "**"),
    italic: ("*", "*"),
    struck: ("~~", "~~"),
    code: ("`", "`"),
    block: ("```\n", "\n```"),
    block_in: Some(("```", "\n", "\n```")),
    quote: None,
    link: ("", "", ""),
    unlinked: &[],
    bare_links: true,
    verbatim: true,
    escaped: |c| match c {
        '\\' => Some("\\\\"),
        '*' => Some("\\*"),
        '_' => Some("\\_"),
        '~' => Some("\\~"),
        '`' => Some("\\`"),
        '|' => Some("\\|"),
        '#' => Some("\\#"),
        '<' => Some("\\<"),
        '[' => Some("\\["),
        _ => None,
    },
};

/// A mail has no length.
const BOUNDLESS: usize = 1024 * 1024;

/// The part of a mail that shows marks (HTML).
pub static MAIL_HTML: Style = Style {
    limit: BOUNDLESS,
    bold: ("<strong>", "</strong>"),
    italic: ("<em>", "</em>"),
    struck: ("<s>", "</s>"),
    quote: Some(("<blockquote>", "</blockquote>")),
    block_in: None,
    ..TELEGRAM_HTML
};

/// The part of a mail that shows none.
pub static MAIL_TEXT: Style = Style {
    limit: BOUNDLESS,
    bold: ("", ""),
    italic: ("", ""),
    struck: ("", ""),
    code: ("", ""),
    block: ("", ""),
    ..WHATSAPP
};

impl Style {
    pub fn units(&self, c: char) -> usize {
        (self.escaped)(c).map_or_else(|| c.len_utf16(), str::len)
    }

    pub fn length(&self, text: &str) -> usize {
        text.chars().map(|c| self.units(c)).sum()
    }

    pub fn escape(&self, text: &str) -> String {
        let mut marked = String::with_capacity(text.len());
        let (mut rest, verbatim) = (text, self.verbatim);
        while !rest.is_empty() {
            let address = ["https://", "http://"].iter().filter(|_| verbatim).filter_map(|way| rest.find(way)).min();
            let (words, behind) = rest.split_at(address.unwrap_or(rest.len()));
            for c in words.chars() {
                match (self.escaped)(c) {
                    Some(entity) => marked.push_str(entity),
                    None => marked.push(c),
                }
            }
            let (address, behind) = behind.split_at(behind.find(char::is_whitespace).unwrap_or(behind.len()));
            marked.push_str(address);
            rest = behind;
        }
        marked
    }

    /// Whether what stands between marks that end like this is code.
    pub fn is_code(&self, close: &str) -> bool {
        !close.is_empty() && [self.code.1, self.block.1].contains(&close)
    }
}
