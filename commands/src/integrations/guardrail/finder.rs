//! Finding personal data by its form, and what an expression matches; also in a text of which more is to come.
//!
//! Whether something begins at a place depends on the character before it and on at most [`Finder::window`] bytes from there,
//! or fewer when one of them cannot be part of it. So a stream gives what the whole text would give, however it is cut: nothing
//! is shown of a place that is not decided.

use std::{net::IpAddr, ops::Range, sync::LazyLock};

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, LookSet};
use symbia_events::integrations::PersonalData;

/// Most memory of a compiled expression, bytes.
const EXPRESSION: usize = 1 << 18;
/// Longest character.
const CHARACTER: usize = 4;
/// Most digits of a card's number, and fewest.
const CARD: (usize, usize) = (13, 19);
/// Longest name of a mailbox, of a domain, and of its parts, in characters.
const MAILBOX: usize = 64;
const DOMAIN: usize = 253;
const LABEL: usize = 63;
/// Longest address of the Internet Protocol, as text.
const ADDRESS: usize = 45;

// International, of North America in its groups, and with the zero of a trunk.
static PHONE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let international = r"\+[1-9](?:[ ./()-]{0,2}[0-9]){6,14}";
    let american = r"(?:\([0-9]{3}\) ?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}";
    let trunk = r"0[0-9]{1,4}[ /-][0-9]{3,4}[ -]?[0-9]{3,6}";
    Regex::new(&format!("{international}|{american}|{trunk}")).ok()
});
static SSN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[0-9]{3}([- ])[0-9]{2}[- ][0-9]{4}").ok());

/// Finds one thing.
#[derive(Debug)]
pub(super) struct Finder {
    what: What,
    /// What it can consist of.
    may_have: fn(char) -> bool,
    /// Bytes within which it is decided whether it begins; none: the whole text.
    window: Option<usize>,
}

#[derive(Debug)]
enum What {
    Email,
    Phone,
    Ssn,
    Card,
    Address,
    Pattern(Regex),
}

impl Finder {
    /// Finds personal data.
    pub fn of(kind: PersonalData) -> Self {
        let finder = |what, may_have, window| Finder { what, may_have, window: Some(window + CHARACTER) };
        match kind {
            PersonalData::Email => {
                let within = |c: char| c.is_alphanumeric() || "._%+'-@".contains(c);
                finder(What::Email, within, CHARACTER * (MAILBOX + 1 + DOMAIN))
            }
            PersonalData::Phone => {
                finder(What::Phone, |c| c.is_ascii_digit() || "+() ./-".contains(c), 2 + 14 * 3 + CHARACTER)
            }
            PersonalData::Ssn => finder(What::Ssn, |c| c.is_ascii_digit() || " -".contains(c), 11 + CHARACTER),
            PersonalData::CreditCard => finder(What::Card, |c| c.is_ascii_digit() || " -".contains(c), 2 * CARD.1),
            PersonalData::IpAddress => finder(What::Address, |c| c.is_ascii_hexdigit() || ".:".contains(c), ADDRESS),
        }
    }

    /// Finds what an expression matches, in time linear in the text.
    pub fn matching(pattern: &str) -> Result<Self, String> {
        let expression = RegexBuilder::new(pattern).size_limit(EXPRESSION).dfa_size_limit(EXPRESSION).build();
        let expression = expression.map_err(|error| error.to_string())?;
        let parsed = regex_syntax::parse(pattern).map_err(|error| error.to_string())?;
        if parsed.properties().minimum_len().is_none_or(|least| least == 0) {
            return Err("it matches nothing at all, or the empty text".to_owned());
        }
        Ok(Finder { what: What::Pattern(expression), may_have: |_| true, window: window(&parsed) })
    }

    /// Whether it can be told only from the whole text.
    pub fn needs_all(&self) -> bool {
        self.window.is_none()
    }

    /// The first place from `at` on.
    pub fn find(&self, text: &str, at: usize) -> Option<Range<usize>> {
        match &self.what {
            What::Email => email(text, at),
            What::Phone => valid(PHONE.as_ref()?, text, at, stands_alone),
            What::Ssn => valid(SSN.as_ref()?, text, at, |text, range| {
                stands_alone(text, range.clone()) && is_ssn(text.get(range).unwrap_or_default())
            }),
            What::Card => card(text, at),
            What::Address => address(text, at),
            What::Pattern(expression) => expression.find_at(text, at).map(|found| found.range()),
        }
    }

    /// How often it is there.
    pub fn count(&self, text: &str) -> u32 {
        let (mut at, mut count) = (0, 0);
        while let Some(found) = self.find(text, at) {
            (at, count) = (found.end, count + 1);
        }
        count
    }

    /// The first place from `at` on of which it is not decided yet whether something begins there.
    pub fn undecided(&self, text: &str, at: usize) -> usize {
        let Some(window) = self.window else { return at };
        let mut from = text.len();
        let rest = text.get(at..).unwrap_or_default();
        for (place, c) in rest.char_indices().rev() {
            if !(self.may_have)(c) || text.len() - (at + place) >= window {
                break;
            }
            from = at + place;
        }
        from
    }
}

// Word boundaries look one character ahead, other anchors at the ends of the text, or are not worth telling apart.
fn window(parsed: &Hir) -> Option<usize> {
    let words = LookSet::empty()
        .insert(regex_syntax::hir::Look::WordAscii)
        .insert(regex_syntax::hir::Look::WordAsciiNegate)
        .insert(regex_syntax::hir::Look::WordUnicode)
        .insert(regex_syntax::hir::Look::WordUnicodeNegate);
    let looks = parsed.properties().look_set();
    let plain = looks.union(words) == words;
    parsed.properties().maximum_len().filter(|_| plain).map(|most| most + CHARACTER)
}

fn valid(
    expression: &Regex,
    text: &str,
    mut at: usize,
    is_it: impl Fn(&str, Range<usize>) -> bool,
) -> Option<Range<usize>> {
    loop {
        let found = expression.find_at(text, at)?.range();
        if is_it(text, found.clone()) {
            return Some(found);
        }
        at = found.start + 1;
    }
}

fn before(text: &str, at: usize) -> Option<char> {
    let c = text.get(..at)?.chars().next_back()?;
    (!is_escape(text, at - c.len_utf8())).then_some(c)
}

// Within JSON that stands in a text, the letter of `\n`, `\r` or `\t` is white space.
fn is_escape(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes.get(at), Some(b'n' | b'r' | b't')) && at.checked_sub(1).is_some_and(|at| bytes[at] == b'\\')
}

fn after(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

// A mailbox at a domain of two parts at least, of which the last is letters. By hand: an expression with letters of all scripts
// and these lengths is larger than one may be.
fn email(text: &str, at: usize) -> Option<Range<usize>> {
    let of_mailbox = |c: char| c.is_alphanumeric() || "._%+'-".contains(c);
    let begins = |c: char| c.is_alphanumeric() || "_+".contains(c);
    for (place, _) in text.get(at..)?.match_indices('@') {
        let place = at + place;
        let before = text.get(at..place)?.char_indices().rev().take(MAILBOX);
        let begins = |(start, c): &(usize, char)| begins(*c) && !is_escape(text, at + start);
        let mailbox = before.take_while(|(_, c)| of_mailbox(*c)).filter(begins);
        let Some((start, _)) = mailbox.last() else { continue };
        if let Some(end) = domain(text.get(place + 1..)?) {
            return Some(at + start..place + 1 + end);
        }
    }
    None
}

// Where the longest domain ends that a text begins with.
fn domain(text: &str) -> Option<usize> {
    let (mut ends, mut label, mut labels, mut letters) = (None, 0, 0, 0);
    for (place, c) in text.char_indices().take(DOMAIN) {
        match c {
            '.' if label > 0 => (label, labels, letters) = (0, labels + 1, 0),
            '-' if label > 0 => (label, letters) = (label + 1, 0),
            c if c.is_alphanumeric() => {
                letters = if c.is_alphabetic() && label == letters { letters + 1 } else { 0 };
                label += 1;
            }
            _ => break,
        }
        if label > LABEL {
            break;
        }
        if labels > 0 && letters >= 2 {
            ends = Some(place + c.len_utf8());
        }
    }
    ends
}

// Not a part of a longer word or number.
fn stands_alone(text: &str, range: Range<usize>) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let begins = after(text, range.start).is_some_and(|c| !part(c)) || !before(text, range.start).is_some_and(part);
    begins && !after(text, range.end).is_some_and(|c| c.is_ascii_digit())
}

// Numbers that were never given to anybody.
fn is_ssn(text: &str) -> bool {
    let group = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let (area, middle, serial) = (group(0, 3), group(4, 6), group(7, 11));
    !["000", "666"].contains(&area) && !area.starts_with('9') && middle != "00" && serial != "0000"
}

// Digits that may stand in groups; the longest number with a check digit that fits.
fn card(text: &str, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let digit = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_digit);
    for start in at..bytes.len() {
        let first = matches!(bytes[start], b'2'..=b'6');
        if !first || before(text, start).is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let (mut digits, mut end, mut place) = (Vec::with_capacity(CARD.1), None, start);
        while digits.len() < CARD.1 && digit(place) {
            digits.push(bytes[place] - b'0');
            place += 1;
            if digits.len() >= CARD.0 && !digit(place) && luhn(&digits) {
                end = Some(place);
            }
            if matches!(bytes.get(place), Some(b' ' | b'-')) && digit(place + 1) {
                place += 1;
            }
        }
        if let Some(end) = end {
            return Some(start..end);
        }
    }
    None
}

// ISO/IEC 7812: every second digit from the right counts double.
fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let weighed = digits.iter().rev().enumerate();
    let sum: u32 = weighed.map(|(place, digit)| u32::from(if place % 2 == 1 { doubled(*digit) } else { *digit })).sum();
    sum.is_multiple_of(10)
}

// Runs of what addresses consist of, of which one is read as an address.
fn address(text: &str, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let within = |place: usize| bytes.get(place).is_some_and(|b| b.is_ascii_hexdigit() || b".:".contains(b));
    let mut start = at;
    while start < bytes.len() {
        if !within(start) {
            start += 1;
            continue;
        }
        let end = (start..=bytes.len()).find(|place| !within(*place)).unwrap_or(bytes.len());
        let part = |c: char| c.is_alphanumeric() || "_.:".contains(c);
        let apart = !before(text, start).is_some_and(part) && !after(text, end).is_some_and(part);
        if apart && end - start <= ADDRESS {
            let run = &text[start..end];
            let with_port = run.rsplit_once(':').filter(|(host, _)| host.contains('.')).map(|(host, _)| host);
            let read = [run, run.strip_suffix(['.', ':']).unwrap_or(run)].into_iter().chain(with_port);
            let mut found = read.filter(|run| run.parse::<IpAddr>().is_ok() && run.contains(|c: char| c != ':'));
            if let Some(found) = found.next() {
                return Some(start..start + found.len());
            }
        }
        start = end;
    }
    None
}
