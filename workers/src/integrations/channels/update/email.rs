//! Mails (RFC 5322, MIME), as a mail server of an organization's own hands them over: what somebody wrote, without what they
//! quoted; what a program wrote by itself is known as such, so that two do not answer each other for ever.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use mail_parser::{HeaderValue, Message, MessageParser, MimeHeaders};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use symbia_commands::integrations::ChannelChange;
use symbia_events::integrations::ChannelReceipt;

use super::{Attachment, Chat, Inbound, MAX_LABEL, MOST_ATTACHMENTS, Party, Told};

/// Most bytes of a text that are taken over.
const MAX_TEXT: usize = 64 * 1024;
/// Longest id of a message (a line, RFC 5322).
const MAX_ID: usize = 990;
/// Most bytes of the ids of a thread that are kept.
const MAX_REFERENCES: usize = 1600;
/// Between the address and the thread in the id of a chat.
const THREAD: char = '/';
/// What ids of our own messages begin with.
const OURS: &str = "symbia.";
/// Digits that stand for a thread.
const DIGITS: usize = 16;
/// Headers of lists and of what is sent to many (RFC 2919, RFC 2369).
const OF_LISTS: [&str; 6] =
    ["List-Id", "List-Unsubscribe", "List-Post", "List-Help", "List-Subscribe", "List-Unsubscribe-Post"];
/// Senders that are programs.
const PROGRAMS: [&str; 5] = ["mailer-daemon", "postmaster", "no-reply", "noreply", "do-not-reply"];

/// What an answer needs: the subject, the message that it answers, and those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct MailThread {
    pub subject: String,
    pub id: String,
    #[serde(default)]
    pub references: Vec<String>,
}

/// Address and thread of a chat.
pub(in super::super) fn mail_place(chat: &str) -> (&str, Option<&str>) {
    chat.rsplit_once(THREAD).map_or((chat, None), |(address, thread)| (address, Some(thread)))
}

/// What stands for the thread that a message begins.
pub(in super::super) fn token_of(id: &str) -> String {
    digits(id).chars().take(DIGITS).collect()
}

fn digits(id: &str) -> String {
    Sha256::digest(id.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

// An id, as far as it is short; else what stands for it.
fn short(id: &str) -> String {
    if id.len() <= MAX_LABEL { id.to_owned() } else { digits(id) }
}

/// Reads a mail to an address of ours: `{raw}`, in base64. `call` is its id where it has none of its own.
pub fn read(body: &str, own: Option<&str>, call: Option<&str>) -> Vec<Told> {
    let Ok(told) = serde_json::from_str::<Value>(body) else { return vec![Told::Malformed] };
    let raw = told["raw"].as_str().and_then(|raw| BASE64.decode(raw).ok());
    let (Some(raw), Some(own), Some(call)) = (raw, own, call) else { return vec![Told::Malformed] };
    let Some(mail) = MessageParser::default().parse(&raw) else { return vec![Told::Malformed] };
    if let Some(receipt) = bounce(&mail, &raw, own) {
        return vec![receipt];
    }
    let Some(from) = address(mail.from()) else { return vec![Told::Malformed] };
    if from.0.eq_ignore_ascii_case(own) {
        return vec![Told::Nothing];
    }
    vec![message(&mail, from, own, call).unwrap_or(Told::Nothing)]
}

fn address(of: Option<&mail_parser::Address<'_>>) -> Option<(String, Option<String>)> {
    let first = of?.first()?;
    let address = first.address()?.trim().to_lowercase();
    let fits = address.len() < MAX_LABEL - DIGITS
        && address.contains('@')
        && !address.chars().any(|c| c.is_whitespace() || c.is_control() || c == THREAD);
    fits.then(|| (address, first.name().and_then(named)))
}

fn named(text: &str) -> Option<String> {
    super::label(&Value::from(text.trim()))
}

fn ids(value: &HeaderValue<'_>) -> Vec<String> {
    let all = value.as_text_list().unwrap_or_default().iter();
    all.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty() && id.len() <= MAX_ID && is_plain(id)).collect()
}

// Nothing that would end a line or an id in a header of ours.
fn is_plain(id: &str) -> bool {
    !id.chars().any(|c| c.is_whitespace() || c.is_control() || "<>".contains(c))
}

// The thread of a message of ours.
fn ours<'i>(id: &'i str, own: &str) -> Option<&'i str> {
    let (name, domain) = id.split_once('@')?;
    let same = own.split_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
    let token = name.strip_prefix(OURS)?.rsplit_once('.')?.1;
    (same && token.len() == DIGITS && token.bytes().all(|b| b.is_ascii_hexdigit())).then_some(token)
}

// Whether a program wrote it by itself (RFC 3834).
fn is_automatic(mail: &Message<'_>, from: &str) -> bool {
    let text = |name: &'static str| mail.header(name).and_then(HeaderValue::as_text).unwrap_or_default().to_lowercase();
    let (submitted, precedence) = (text("Auto-Submitted"), text("Precedence"));
    let name = from.split('@').next().unwrap_or_default();
    // Nobody is to be told that it did not arrive.
    let from_nobody = mail.header_raw("Return-Path").is_some_and(|path| path.trim() == "<>");
    let is_report = mail.root_part().is_content_type("multipart", "report");
    (!submitted.is_empty() && submitted.trim() != "no")
        || ["bulk", "junk", "list", "auto_reply"].contains(&precedence.trim())
        || OF_LISTS.iter().any(|name| mail.header(*name).is_some())
        || ["X-Autoreply", "X-Autorespond", "X-Auto-Reply"].iter().any(|name| mail.header(*name).is_some())
        || PROGRAMS.contains(&name)
        || from_nobody
        || is_report
}

fn message(mail: &Message<'_>, (from, name): (String, Option<String>), own: &str, call: &str) -> Option<Told> {
    // Whoever is to be answered has the talk: who writes in another's name learns nothing of what was said to them.
    let to = address(mail.reply_to()).map_or_else(|| from.clone(), |(to, _)| to);
    let id = mail.message_id().filter(|id| id.len() <= MAX_ID && is_plain(id)).unwrap_or(call).to_owned();
    let (answers, mut references) = (ids(mail.in_reply_to()), ids(mail.references()));
    let token = answers.iter().chain(references.iter().rev()).find_map(|id| ours(id, own)).map(str::to_owned);
    let root = references.first().or(answers.first()).unwrap_or(&id);
    let token = token.unwrap_or_else(|| token_of(root));
    let reply_to = answers.first().filter(|id| ours(id, own).is_none()).map(|id| short(id));
    references.extend(answers.into_iter().filter(|id| !references.contains(id)).collect::<Vec<_>>());
    bounded(&mut references);
    let subject = mail.subject().and_then(named).unwrap_or_default();
    let text = mail.body_text(0).map(|text| fresh(&text)).filter(|text| !text.trim().is_empty());
    let attachments: Vec<Attachment> = mail.attachments().filter_map(attachment).take(MOST_ATTACHMENTS).collect();
    if text.is_none() && attachments.is_empty() && subject.is_empty() {
        return None;
    }
    // Some say everything in the subject.
    let text = text.or_else(|| attachments.is_empty().then(|| subject.clone()));
    let thread = MailThread { subject: subject.clone(), id: id.clone(), references };
    let message = Inbound {
        id: short(&id),
        content_type: attachments
            .first()
            .filter(|_| text.is_none())
            .map_or("text", |file| file.kind.as_str())
            .to_owned(),
        text,
        attachments,
        sender: Party { is_bot: is_automatic(mail, &from), id: from.clone(), name, username: None },
        chat: Chat {
            id: format!("{to}{THREAD}{token}"),
            kind: "private".to_owned(),
            name: Some(subject).filter(|subject| !subject.is_empty()),
        },
        reply_to_message_id: reply_to,
        timestamp: mail.date().map(mail_parser::DateTime::to_rfc3339).unwrap_or_default(),
        edited_at: None,
        thread: serde_json::to_string(&thread).ok(),
    };
    Some(Told::Message { update_id: short(&id), change: ChannelChange::Said, message: Box::new(message) })
}

// The first says what it is about; of the others, the last say what is answered.
fn bounded(references: &mut Vec<String>) {
    while references.iter().map(String::len).sum::<usize>() > MAX_REFERENCES && references.len() > 1 {
        references.remove(1);
    }
    references.retain(|id| id.len() <= MAX_REFERENCES);
}

fn attachment(part: &mail_parser::MessagePart<'_>) -> Option<Attachment> {
    let kind = part.content_type();
    let mime_type = kind.map(|of| format!("{}/{}", of.ctype(), of.subtype().unwrap_or("octet-stream")).to_lowercase());
    let kind = kind.map(mail_parser::ContentType::ctype).filter(|of| ["image", "audio", "video"].contains(of));
    let bytes = part.contents();
    (!bytes.is_empty()).then(|| Attachment {
        kind: kind.unwrap_or("document").to_owned(),
        mime_type: mime_type.filter(|mime| mime.len() <= MAX_LABEL),
        filename: part.attachment_name().and_then(named),
        size: u64::try_from(bytes.len()).ok(),
        data: Some(BASE64.encode(bytes)),
        ..Attachment::default()
    })
}

// A message of ours that did not arrive (RFC 3464): it is named by its id, in what is given back of it.
fn bounce(mail: &Message<'_>, raw: &[u8], own: &str) -> Option<Told> {
    if !mail.root_part().is_content_type("multipart", "report") {
        return None;
    }
    let report = mail.parts.iter().find(|part| part.is_content_type("message", "delivery-status"))?;
    let report = String::from_utf8_lossy(report.contents()).into_owned();
    let field = |name: &str| {
        let line =
            report.lines().find(|line| line.get(..name.len()).is_some_and(|at| at.eq_ignore_ascii_case(name)))?;
        Some(line.split_at(name.len()).1.trim().to_lowercase())
    };
    if field("Action:")? != "failed" {
        return None;
    }
    let recipient = field("Final-Recipient:").or_else(|| field("Original-Recipient:"))?;
    let recipient = recipient.split_once(';').map_or(recipient.as_str(), |(_, address)| address.trim());
    let raw = String::from_utf8_lossy(raw);
    let id = raw.match_indices(&format!("<{OURS}")).find_map(|(at, _)| {
        let id = raw.split_at(at + 1).1.split('>').next()?;
        ours(id, own).map(|token| (id.to_owned(), token.to_owned()))
    });
    let (id, token) = id?;
    let code =
        field("Status:").filter(|status| status.len() <= 16 && status.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    Some(Told::Receipt {
        chat: format!("{recipient}{THREAD}{token}"),
        vendor_message_id: id,
        receipt: ChannelReceipt::Failed,
        code: Some(code.map_or_else(|| "bounced".to_owned(), |status| format!("bounced_{status}"))),
    })
}

/// A text without what it quotes at its end. What stands between quotations is an answer to them, and stays with them.
fn fresh(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_blank = |line: &str| line.trim().is_empty();
    let begins_another = |at: usize| {
        let of_sender =
            |line: &&str| ["From:", "Von:", "De:", "Da:"].iter().any(|name| line.trim_start().starts_with(name));
        let rule = lines.get(at).is_some_and(|line| {
            let line = line.trim();
            line.len() >= 10 && (line.bytes().all(|b| b == b'_') || (line.starts_with("---") && line.ends_with("---")))
        });
        rule && lines.iter().skip(at + 1).find(|line| !is_blank(line)).is_some_and(of_sender)
    };
    let mut end = (0..lines.len()).find(|at| begins_another(*at)).unwrap_or(lines.len());
    let quoted = |line: &&str| line.trim_start().starts_with('>');
    let tail = lines.iter().take(end).rev().take_while(|line| quoted(line) || is_blank(line));
    let (tail, quotes) = tail.fold((0, 0), |(all, quotes), line| (all + 1, quotes + usize::from(quoted(line))));
    if quotes > 0 {
        end -= tail;
        end -= attribution(lines.get(..end).unwrap_or_default());
    }
    let kept = lines.get(..end).unwrap_or_default().join("\n");
    // Whoever wrote nothing but a quotation said that.
    let said = if is_blank(&kept) { text } else { kept.trim_end() };
    said.get(..said.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}

// How many of the last lines say who wrote what is quoted behind them: up to two that end with a colon, and name an address or
// a year.
fn attribution(lines: &[&str]) -> usize {
    let count = lines.iter().rev().take_while(|line| !line.trim().is_empty()).count();
    let words = lines.iter().rev().take(count).rev().copied().collect::<Vec<_>>().join(" ");
    let years = words.as_bytes().windows(4).any(|four| four.iter().all(u8::is_ascii_digit));
    if (1..=2).contains(&count) && words.trim_end().ends_with(':') && (years || words.contains('@')) {
        count
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OWN: &str = "bot@acme.example";

    fn told(mail: &str) -> Told {
        let body = json!({ "raw": BASE64.encode(mail.replace('\n', "\r\n")) });
        read(&body.to_string(), Some(OWN), Some("call")).remove(0)
    }

    fn said(mail: &str) -> Inbound {
        match told(mail) {
            Told::Message { message, .. } => *message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mail_is_read_with_its_thread_and_its_files() {
        let mail = "From: Grace <Grace@X.example>\nTo: bot@acme.example\nSubject: =?utf-8?q?H=C3=A9?=\nMessage-ID: <m1@x>\n\
            Date: Thu, 1 Jan 2026 00:00:00 +0000\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n\
            --b\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nHi th=E9re\n\
            --b\nContent-Type: text/csv; name=a.csv\nContent-Disposition: attachment; filename=a.csv\n\n1,2\n--b--\n";
        let first = said(mail);
        assert_eq!((first.id.as_str(), first.text.as_deref()), ("m1@x", Some("Hi thére")));
        assert_eq!(first.chat.id, format!("grace@x.example/{}", token_of("m1@x")));
        assert_eq!((first.chat.name.as_deref(), first.sender.name.as_deref()), (Some("Hé"), Some("Grace")));
        let file = &first.attachments[0];
        assert_eq!((file.filename.as_deref(), file.mime_type.as_deref()), (Some("a.csv"), Some("text/csv")));
        assert!(!first.sender.is_bot && first.timestamp == "2026-01-01T00:00:00Z", "{first:?}");
        // An answer to the first, and one to us that names nothing else.
        let more =
            said("From: grace@x.example\nMessage-ID: <m3@x>\nIn-Reply-To: <m2@y>\nReferences: <m1@x> <m2@y>\n\nhm\n");
        assert_eq!((&more.chat.id, more.reply_to_message_id.as_deref()), (&first.chat.id, Some("m2@y")));
        let ours = format!("symbia.d.1.{}@acme.example", token_of("m1@x"));
        let to_us = said(&format!("From: grace@x.example\nMessage-ID: <m4@x>\nIn-Reply-To: <{ours}>\n\nhm\n"));
        assert_eq!((&to_us.chat.id, to_us.reply_to_message_id), (&first.chat.id, None));
        let thread: MailThread = serde_json::from_str(to_us.thread.as_deref().unwrap()).unwrap();
        assert_eq!((thread.id.as_str(), thread.references), ("m4@x", vec![ours]));
        // Another who knows the thread has a talk of their own, and so has who is to be answered elsewhere.
        let eve =
            said("From: grace@x.example\nReply-To: eve@z.example\nReferences: <m1@x>\nMessage-ID: <m5@x>\n\nhm\n");
        assert!(eve.chat.id.starts_with("eve@z.example/"), "{}", eve.chat.id);
    }

    #[test]
    fn what_programs_write_by_themselves_is_known_as_such() {
        for header in [
            "Auto-Submitted: auto-replied",
            "Precedence: bulk",
            "List-Id: <l.x.example>",
            "List-Unsubscribe: <https://x.example/u>",
            "Return-Path: <>",
            "X-Autoreply: yes",
        ] {
            let mail = format!("{header}\nFrom: grace@x.example\nMessage-ID: <m@x>\nSubject: s\n\nhi\n");
            assert!(said(&mail).sender.is_bot, "{header}");
        }
        assert!(said("From: MAILER-DAEMON@x.example\nMessage-ID: <m@x>\n\nhi\n").sender.is_bot);
        assert!(!said("Auto-Submitted: no\nFrom: grace@x.example\nMessage-ID: <m@x>\n\nhi\n").sender.is_bot);
        assert_eq!(told("From: bot@acme.example\nMessage-ID: <m@x>\n\nhi\n"), Told::Nothing);
    }

    #[test]
    fn a_bounce_says_which_message_did_not_arrive() {
        let id = format!("symbia.d.1.{}@acme.example", "0".repeat(16));
        let mail = format!(
            "From: mailer-daemon@x.example\nMessage-ID: <m@x>\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
             --b\nContent-Type: text/plain\n\nSorry.\n\
             --b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x.example\n\n\
             Final-Recipient: rfc822; Ada@X.example\nAction: failed\nStatus: 5.1.1\n\n\
             --b\nContent-Type: text/rfc822-headers\n\nMessage-ID: <{id}>\n\n--b--\n"
        );
        let Told::Receipt { chat, vendor_message_id, receipt, code } = told(&mail) else { panic!("{mail}") };
        assert_eq!((chat.as_str(), vendor_message_id), ("ada@x.example/0000000000000000", id));
        assert_eq!((receipt, code.as_deref()), (ChannelReceipt::Failed, Some("bounced_5.1.1")));
        assert!(said(&mail.replace("Action: failed", "Action: delayed")).sender.is_bot);
    }

    #[test]
    fn what_is_quoted_at_the_end_is_left_out_and_what_is_answered_in_between_is_not() {
        for (text, expected) in [
            ("Yes.\n\nOn Mon, 5 Jan 2026, Bot wrote:\n> really?\n> sure?\n", "Yes."),
            ("Ja.\n\nAm 5. Januar 2026 schrieb Bot\n<bot@acme.example>:\n> wirklich?\n", "Ja."),
            ("> really?\nYes.\n> sure?\nNo.\n", "> really?\nYes.\n> sure?\nNo."),
            ("As follows:\n> a list\n", "As follows:"),
            ("Ok\n\n-----Original Message-----\nFrom: Bot\nSent: today\n\nHi\n", "Ok"),
            ("Ok\n________________________________\nVon: Bot\nHi\n", "Ok"),
            ("One\n----------\nTwo\n", "One\n----------\nTwo"),
            ("> only this\n", "> only this\n"),
        ] {
            assert_eq!(fresh(text), expected, "{text}");
        }
    }
}
