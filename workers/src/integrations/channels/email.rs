//! A mailbox: what is said goes out by SMTP (RFC 5321), as an answer to what was said last in its thread.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error,
        authentication::Credentials,
        client::{Tls, TlsParameters},
        extension::ClientId,
    },
};
use reqwest::Url;
use symbia_commands::integrations::ChannelContent;
use symbia_egress::Egress;

use super::{
    super::provider::ApiKey,
    line::Line,
    markup::{MAIL_HTML, MAIL_TEXT, Part, parts},
    messenger::{Messenger, Opening, PATIENCE, Refused, Saying, SpeaksAs},
    update::{Attachment, MailThread, mail_place, token_of},
};

/// Ports at which mail servers are.
const PORTS: [u16; 4] = [25, 465, 587, 2525];
/// The port of `smtps`, and of `smtp`.
const SMTPS: u16 = 465;
const SUBMISSION: u16 = 587;
/// What the subject of an answer begins with.
const ANSWERS: &str = "Re: ";
/// Longest subject of what begins a thread, in characters.
const MAX_SUBJECT: usize = 78;

/// Where a mailbox is, and as whom it is signed in.
pub(super) struct Account<'a> {
    pub server: Url,
    pub address: &'a str,
    pub login: Option<&'a str>,
}

/// A mailbox.
pub(super) struct MailBox {
    egress: Egress,
    server: Url,
    address: Address,
    login: String,
    password: ApiKey,
}

impl MailBox {
    pub fn line(egress: &Egress, of: Account<'_>, password: ApiKey) -> Result<Line, Refused> {
        let address: Address = of.address.parse().map_err(|_| Refused::fatal("bad_address"))?;
        let login = of.login.unwrap_or(of.address).to_owned();
        Ok(Box::new(MailBox { egress: egress.clone(), server: of.server, address, login, password }))
    }

    // What is looked up is checked, and then connected to; the certificate is to be the name's.
    async fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, Refused> {
        let host = self.server.host_str().unwrap_or_default().to_lowercase();
        let wraps = self.server.scheme() == "smtps";
        let port = self.server.port().unwrap_or(if wraps { SMTPS } else { SUBMISSION });
        let address = self.egress.locate(&host, port, &PORTS).await?;
        let tls = TlsParameters::new(host).map_err(|_| Refused::fatal("bad_endpoint"))?;
        let tls = match wraps {
            true => Tls::Wrapper(tls),
            // What never leaves this machine needs no TLS.
            false if address.is_loopback() => Tls::Opportunistic(tls),
            false => Tls::Required(tls),
        };
        let credentials = Credentials::new(self.login.clone(), self.password.reveal().to_owned());
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.to_string());
        let builder = builder.port(port).tls(tls).credentials(credentials).timeout(Some(PATIENCE));
        Ok(builder.hello_name(ClientId::Domain(self.address.domain().to_owned())).build())
    }

    fn message(&self, saying: &Saying<'_>) -> Result<(String, Message), Refused> {
        let (to, token) = mail_place(&saying.content.chat_id);
        let to: Address = to.parse().map_err(|_| Refused::lasting("bad_address"))?;
        let token = token.map_or_else(|| token_of(saying.id), str::to_owned);
        // What is answered to this belongs to the thread, whatever else a program leaves out.
        let id = format!("symbia.{}.{token}@{}", saying.id, self.address.domain());
        let thread: Option<MailThread> = saying.thread.and_then(|thread| serde_json::from_str(thread).ok());
        let automatic = if thread.is_some() { "auto-replied" } else { "auto-generated" };
        let mut message = Message::builder()
            .from(Mailbox::new(None, self.address.clone()))
            .to(Mailbox::new(None, to))
            .message_id(Some(format!("<{id}>")))
            .subject(subject(thread.as_ref(), &saying.part.plain))
            // Programs that answer by themselves do not answer to this (RFC 3834).
            .raw_header(header("Auto-Submitted", automatic)?)
            .raw_header(header("X-Auto-Response-Suppress", "All")?);
        if let Some(thread) = thread {
            let of = saying.content.reply_to_message_id.as_deref().unwrap_or(&thread.id);
            let known = thread.references.iter().map(String::as_str).filter(|id| *id != of);
            let references: Vec<String> = known.chain([of]).map(|id| format!("<{id}>")).collect();
            message = message.in_reply_to(format!("<{of}>")).references(references.join(" "));
        }
        let html = format!("<div style=\"white-space: pre-wrap\">{}</div>", saying.part.marked);
        let body = MultiPart::alternative_plain_html(saying.part.plain.clone(), html);
        Ok((id, message.multipart(body).map_err(|_| Refused::lasting("bad_message"))?))
    }
}

fn header(name: &str, value: &str) -> Result<HeaderValue, Refused> {
    let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|_| Refused::lasting("bad_message"))?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

fn subject(thread: Option<&MailThread>, text: &str) -> String {
    match thread {
        Some(thread) if thread.subject.get(..3).is_some_and(|begins| begins.eq_ignore_ascii_case("re:")) => {
            thread.subject.clone()
        }
        Some(thread) => format!("{ANSWERS}{}", thread.subject),
        None => {
            let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            line.chars().filter(|c| !c.is_control()).take(MAX_SUBJECT).collect()
        }
    }
}

fn refused(error: &Error) -> Refused {
    let code = error.status().map(u16::from);
    match code {
        Some(530 | 534 | 535 | 538) => Refused::fatal("unauthorized"),
        Some(421 | 450..=455) => Refused::passing("unavailable", None),
        Some(550 | 551 | 553) => Refused::lasting("undeliverable"),
        Some(552) => Refused::lasting("too_long"),
        Some(400..=499) => Refused::passing("unavailable", None),
        Some(_) => Refused::lasting("refused"),
        None if error.is_timeout() => Refused::passing("timeout", None),
        None if error.is_tls() => Refused::passing("bad_certificate", None),
        // It offers no TLS, or no way of signing in.
        None if error.is_client() => Refused::lasting("unsafe_server"),
        None => Refused::passing("unreachable", None),
    }
}

#[async_trait]
impl Messenger for MailBox {
    async fn open(&self, _how: &Opening<'_>) -> Result<SpeaksAs, Refused> {
        self.state("").await?;
        let address = self.address.to_string();
        Ok(SpeaksAs { id: address.clone(), name: address })
    }

    async fn state(&self, _mode: &str) -> Result<Option<String>, Refused> {
        let tested = self.transport().await?.test_connection().await.map_err(|error| refused(&error))?;
        Ok((!tested).then(|| "unavailable".to_owned()))
    }

    fn parts(&self, content: &ChannelContent) -> Vec<Part> {
        let html = parts(&content.text, content.format, &MAIL_HTML);
        let text = parts(&content.text, content.format, &MAIL_TEXT);
        let both = html.into_iter().zip(text);
        both.map(|(html, text)| Part { marked: html.marked, plain: text.marked }).collect()
    }

    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused> {
        let (id, message) = self.message(saying)?;
        let transport = self.transport().await?;
        let sent = tokio::time::timeout(PATIENCE + Duration::from_secs(5), transport.send(message)).await;
        sent.map_err(|_| Refused::passing("timeout", None))?.map_err(|error| refused(&error))?;
        Ok(id)
    }

    // All files come along with a message.
    async fn file(&self, _attachment: &Attachment, _most: usize) -> Result<Bytes, Refused> {
        Err(Refused::lasting("no_file"))
    }
}

#[cfg(test)]
mod tests {
    use symbia_egress::Rules;

    use super::*;

    fn mailbox() -> MailBox {
        MailBox {
            egress: Egress::new(Rules::default()).unwrap(),
            server: "smtp://mail.example".parse().unwrap(),
            address: "bot@acme.example".parse().unwrap(),
            login: "bot".to_owned(),
            password: ApiKey::new(zeroize::Zeroizing::new("p".to_owned())),
        }
    }

    fn written(chat: &str, text: &str, thread: Option<&str>) -> Result<(String, String), Refused> {
        let content = ChannelContent { chat_id: chat.to_owned(), text: text.to_owned(), ..ChannelContent::default() };
        let (mailbox, id) = (mailbox(), "d1.1");
        let part = mailbox.parts(&content).remove(0);
        let saying = Saying { content: &content, part: &part, id, thread };
        let (id, message) = mailbox.message(&saying)?;
        Ok((id, String::from_utf8(message.formatted()).unwrap()))
    }

    #[test]
    fn an_answer_is_one_in_its_thread_and_says_that_a_program_wrote_it() {
        let thread = r#"{"subject":"Hé","id":"m2@x","references":["m1@x"]}"#;
        let (id, mail) =
            written("ada@x.example/0123456789abcdef", "**Hi** [here](https://y.example) <b>", Some(thread)).unwrap();
        assert_eq!(id, "symbia.d1.1.0123456789abcdef@acme.example");
        for line in [
            "From: bot@acme.example\r\n",
            "To: ada@x.example\r\n",
            "Message-ID: <symbia.d1.1.0123456789abcdef@acme.example>\r\n",
            "In-Reply-To: <m2@x>\r\n",
            "References: <m1@x> <m2@x>\r\n",
            "Auto-Submitted: auto-replied\r\n",
            "Subject: Re: =?utf-8?b?SMOp?=\r\n",
            "Hi here (https://y.example) <b>\r\n",
            "<strong>Hi</strong> <a href=",
            "&lt;b&gt;",
        ] {
            assert!(mail.contains(line), "{line}: {mail}");
        }
        let (_, mail) = written("ada@x.example", "First line\n\nmore", None).unwrap();
        assert!(mail.contains("Subject: First line\r\n") && !mail.contains("In-Reply-To"), "{mail}");
        assert_eq!(written("ada@x.example\r\nBcc: eve@x.example", "hi", None), Err(Refused::lasting("bad_address")));
    }
}
