//! GBNF, llama.cpp's notation of grammars, as the Lark notation of the engine that enforces them.
//!
//! llama.cpp's own enforcement ends the process when a grammar and a token do not fit, so it is not used.

use std::collections::HashMap;
use std::fmt::Write;

/// Longest grammar in bytes.
const LONGEST: usize = 256 * 1024;
/// Deepest nesting of groups.
const DEEPEST: usize = 64;
/// Most repetitions of one item.
const MOST: u32 = 10_000;

/// Why a grammar cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct Error {
    line: usize,
    what: String,
}

/// Translates a grammar whose start is the rule `root`.
pub(super) fn to_lark(gbnf: &str) -> Result<String, Error> {
    let mut reader = Reader { text: gbnf, at: 0, names: HashMap::new(), depth: 0 };
    if gbnf.len() > LONGEST {
        return Err(reader.error("the grammar is longer than 256 KiB"));
    }
    let mut lark = String::new();
    let mut defined = Vec::new();
    while !reader.at_end() {
        let name = reader.name().ok_or_else(|| reader.error("a rule must begin with its name"))?;
        if !reader.eat("::=") {
            return Err(reader.error(format!("after the name {name:?} there must be ::=")));
        }
        let rule = reader.rule(&name);
        if defined.contains(&rule) {
            return Err(reader.error(format!("the rule {name:?} is defined twice")));
        }
        let body = reader.alternatives()?;
        let _ = writeln!(lark, "{rule}: {body}");
        defined.push(rule);
    }
    if let Some((name, _)) = reader.names.iter().find(|(_, rule)| !defined.contains(rule)) {
        return Err(reader.error(format!("the rule {name:?} is not defined")));
    }
    let root = reader.names.get("root").ok_or_else(|| reader.error("there is no rule root"))?;
    Ok(format!("start: {root}\n{lark}"))
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// Names of rules as Lark can have them.
    names: HashMap<String, String>,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn error(&self, what: impl Into<String>) -> Error {
        let line = self.text[..self.at].matches('\n').count() + 1;
        Error { line, what: what.into() }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Skips space and comments; whether nothing follows.
    fn at_end(&mut self) -> bool {
        loop {
            let rest = self.rest();
            let next = rest.trim_start();
            self.at += rest.len() - next.len();
            if !next.starts_with('#') {
                return next.is_empty();
            }
            self.at += next.find('\n').unwrap_or(next.len());
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.at_end();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn name(&mut self) -> Option<String> {
        self.at_end();
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(rest.len());
        self.at += len;
        (len > 0).then(|| rest[..len].to_owned())
    }

    fn rule(&mut self, name: &str) -> String {
        let next = format!("r{}", self.names.len());
        self.names.entry(name.to_owned()).or_insert(next).clone()
    }

    /// Whether the next rule begins here: a name and `::=`.
    fn rule_follows(&mut self) -> bool {
        let before = self.at;
        let follows = self.name().is_some() && self.eat("::=");
        self.at = before;
        follows
    }

    fn alternatives(&mut self) -> Result<String, Error> {
        let mut all = vec![self.sequence()?];
        while self.eat("|") {
            all.push(self.sequence()?);
        }
        Ok(all.join(" | "))
    }

    fn sequence(&mut self) -> Result<String, Error> {
        let mut items = Vec::new();
        while !self.at_end() && !self.rest().starts_with(['|', ')']) && !self.rule_follows() {
            let item = self.item()?;
            items.push(format!("{item}{}", self.repetition()?));
        }
        Ok(if items.is_empty() { "\"\"".to_owned() } else { items.join(" ") })
    }

    fn item(&mut self) -> Result<String, Error> {
        match self.rest().chars().next() {
            Some('"') => self.literal(),
            Some('[') => self.class(),
            Some('.') => {
                self.at += 1;
                Ok(r"/[\s\S]/".to_owned())
            }
            Some('(') => {
                self.at += 1;
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(self.error("groups are nested too deeply"));
                }
                let inner = self.alternatives()?;
                self.depth -= 1;
                if self.eat(")") { Ok(format!("({inner})")) } else { Err(self.error("a group is not closed")) }
            }
            other => match self.name() {
                Some(name) => Ok(self.rule(&name)),
                None => Err(self.error(format!("{:?} is not understood", other.unwrap_or(' ')))),
            },
        }
    }

    fn repetition(&mut self) -> Result<String, Error> {
        self.at_end();
        match self.rest().chars().next() {
            Some(sign @ ('*' | '+' | '?')) => {
                self.at += 1;
                Ok(sign.to_string())
            }
            Some('{') => {
                let end = self.rest().find('}').ok_or_else(|| self.error("a repetition is not closed"))?;
                let inside = &self.rest()[1..end];
                let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
                let number = |text: &str| text.trim().parse().ok().filter(|n: &u32| *n <= MOST);
                let least = number(least)
                    .ok_or_else(|| self.error(format!("a repetition is {{n}}, {{n,}} or {{n,m}}, at most {MOST}")))?;
                let most = match most.trim() {
                    "" => None,
                    most => Some(
                        number(most)
                            .filter(|most| *most >= least.max(1))
                            .ok_or_else(|| self.error("a repetition's end must be a number from its beginning"))?,
                    ),
                };
                self.at += end + 1;
                Ok(match most {
                    Some(most) => format!("{{{least},{most}}}"),
                    None => format!("{{{least},}}"),
                })
            }
            _ => Ok(String::new()),
        }
    }

    fn literal(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.character()? {
                ('"', false) => break,
                (character, _) => text.push(character),
            }
        }
        Ok(serde_json::Value::String(text).to_string())
    }

    fn class(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut class = String::from("/[");
        if self.rest().starts_with('^') {
            self.at += 1;
            class.push('^');
        }
        let mut empty = true;
        loop {
            let (from, escaped) = self.character()?;
            if from == ']' && !escaped {
                break;
            }
            empty = false;
            let _ = write!(class, "\\x{{{:x}}}", u32::from(from));
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                let (to, _) = self.character()?;
                if to < from {
                    return Err(self.error("a range of characters runs backwards"));
                }
                let _ = write!(class, "-\\x{{{:x}}}", u32::from(to));
            }
        }
        if empty {
            return Err(self.error("a class of characters is empty"));
        }
        class.push_str("]/");
        Ok(class)
    }

    /// The next character of a literal or class, and whether it was escaped.
    fn character(&mut self) -> Result<(char, bool), Error> {
        let open = "a literal or class is not closed";
        let mut chars = self.rest().chars();
        let first = chars.next().ok_or_else(|| self.error(open))?;
        self.at += first.len_utf8();
        if first != '\\' {
            return Ok((first, false));
        }
        let kind = chars.next().ok_or_else(|| self.error(open))?;
        self.at += kind.len_utf8();
        let digits = match kind {
            'n' => return Ok(('\n', true)),
            'r' => return Ok(('\r', true)),
            't' => return Ok(('\t', true)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return Ok((other, true)),
        };
        let hex = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let character = hex
            .and_then(char::from_u32)
            .ok_or_else(|| self.error(format!("\\{kind} needs {digits} hexadecimal digits of a character")))?;
        self.at += digits;
        Ok((character, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_classes_and_repetitions_are_translated() {
        let gbnf = "# a list\nroot ::= \"[\" item-x (\", \" item-x)* \"]\\n\" # end\nitem-x ::=\n  [a-z\\x2d]{2,3}\n  | [^\"\\]] .?\n";
        let lark = to_lark(gbnf);
        let expected = "start: r0\nr0: \"[\" r1 (\", \" r1)* \"]\\n\"\n\
                        r1: /[\\x{61}-\\x{7a}\\x{2d}]/{2,3} | /[^\\x{22}\\x{5d}]/ /[\\s\\S]/?\n";
        assert_eq!(lark.as_deref(), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (gbnf, line, what) in [
            ("root ::= \"a", 1, "not closed"),
            ("root ::= a\n", 2, "\"a\" is not defined"),
            ("\nroot = \"a\"", 2, "::="),
            ("a ::= \"a\"", 1, "no rule root"),
            ("root ::= \"a\"{3,2}", 1, "repetition"),
            ("root ::= [z-a]", 1, "backwards"),
            ("root ::= []", 1, "empty"),
            ("root ::= \"\\u12\"", 1, "hexadecimal"),
            ("root ::= \"a\"\nroot ::= \"b\"", 2, "twice"),
            ("", 1, "no rule root"),
        ] {
            let error = to_lark(gbnf).expect_err(gbnf);
            assert!(error.line == line && error.what.contains(what), "{gbnf:?}: {error}");
        }
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(1000), ")".repeat(1000));
        assert!(to_lark(&deep).is_err());
    }
}
