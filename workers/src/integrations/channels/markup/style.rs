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
    escaped: |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    },
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
        for c in text.chars() {
            match (self.escaped)(c) {
                Some(entity) => marked.push_str(entity),
                None => marked.push(c),
            }
        }
        marked
    }
}
