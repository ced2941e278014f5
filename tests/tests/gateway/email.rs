//! Mail: what a mail server hands over under a signature is answered by SMTP, in its thread; programs are not answered, and a
//! mail that comes back is known. The mail server here is the tests' own.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;
use symbia_events::messaging::webhook_signature;
use symbia_tests::binary::until;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    Tested,
    channels::{stored, text},
    stage::Stage,
};

const PASSWORD: &str = "CANARY-mailbox-password";
const CHANNELS: &str = "/api/integrations/channels/email";
const BOT: &str = "bot@acme.example";

#[derive(Default)]
struct Book {
    mails: Vec<String>,
    /// Wants to be asked later, so many times.
    busy: u32,
}

type Shared = Arc<Mutex<Book>>;

/// A mail server (RFC 5321, RFC 4954), as far as a client asks it that has a password.
async fn server() -> anyhow::Result<(Shared, String)> {
    let (book, listener) = (Shared::default(), TcpListener::bind("127.0.0.1:0").await?);
    let url = format!("smtp://{}", listener.local_addr()?);
    let shared = Arc::clone(&book);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let book = Arc::clone(&shared);
            // It ends when the client has had enough.
            tokio::spawn(async move { serve(stream, &book).await.ok() });
        }
    });
    Ok((book, url))
}

async fn serve(stream: TcpStream, book: &Mutex<Book>) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let (mut lines, mut signed_in) = (BufReader::new(read).lines(), false);
    let secret = BASE64.encode(format!("\0bot\0{PASSWORD}"));
    write.write_all(b"220 mail.acme.example\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split(' ').next().unwrap_or_default() {
            "EHLO" => "250-mail.acme.example\r\n250 AUTH PLAIN",
            "AUTH" if line == format!("AUTH PLAIN {secret}") => {
                signed_in = true;
                "235 welcome"
            }
            "AUTH" => "535 who are you",
            "MAIL" if !signed_in => "530 who are you",
            "MAIL" => {
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                if book.busy > 0 {
                    book.busy -= 1;
                    "451 come back later"
                } else {
                    "250 ok"
                }
            }
            "RCPT" if line.contains("nobody@") => "550 nobody is here",
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    mail.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.push('\n');
                }
                book.lock().unwrap_or_else(PoisonError::into_inner).mails.push(mail);
                "250 queued"
            }
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

fn header(mail: &str, name: &str) -> anyhow::Result<String> {
    let (headers, _) = mail.split_once("\n\n").context("no end of headers")?;
    let unfolded = headers.replace("\n ", " ");
    let line = unfolded.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    line.with_context(|| format!("no {name}: {mail}"))
}

fn mail(id: &str, headers: &str, body: &str) -> String {
    let mail =
        format!("From: Grace <grace@x.example>\nTo: {BOT}\nSubject: A question\nMessage-ID: <{id}>\n{headers}\n{body}");
    mail.replace('\n', "\r\n")
}

/// A mailbox that Ada connected.
struct MailBox {
    stage: Stage,
    door: String,
    secret: String,
}

impl MailBox {
    async fn tells(&self, call: &str, kind: &str, body: String) -> anyhow::Result<u16> {
        let at = OffsetDateTime::now_utc().unix_timestamp();
        let signature = webhook_signature(&self.secret, call, at, body.as_bytes()).context("no secret")?;
        let request = self.stage.http.post(&self.door).header("content-type", kind).body(body);
        let request = request.header("webhook-id", call).header("webhook-timestamp", at);
        Ok(request.header("webhook-signature", signature).send().await?.status().as_u16())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_answered_in_its_thread_and_no_program_is() -> Tested {
    let (book, url) = server().await?;
    let mails = || book.lock().unwrap_or_else(PoisonError::into_inner).mails.clone();
    let stage = Stage::with_variables(&[("CHANNEL_FILES_MB_PER_DAY", "1")]).await?;
    let ada = stage.register("ada").await?;
    let kept = json!({ "provider": "email", "name": "mailbox", "apiKey": PASSWORD });
    let kept = stage.ask_at(&stage.identity, &ada, "POST", "/api/credentials", Some(kept)).await?;
    let connect = async |url: &str, user: &str| {
        let config = json!({ "address": BOT, "smtpUrl": url, "smtpUser": user });
        let body = json!({ "credentialId": kept.body["id"], "config": config });
        anyhow::Ok(stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(body)).await?)
    };
    // Nothing within is connected to, nobody signs in as somebody else, and nothing else than mail servers is called.
    for (url, user, reason) in [
        ("smtp://10.0.0.1:587", "bot", "address_not_allowed"),
        ("smtp://mail.example:6379", "bot", "bad_endpoint"),
        (url.as_str(), "eve", "unauthorized"),
    ] {
        let refused = connect(url, user).await?;
        ensure!(refused.status == 400 && refused.body["reason"] == reason, "{url}: {}", refused.body);
    }
    let connected = connect(&url, "bot").await?.body;
    ensure!(connected["status"] == "connected" && connected["channelAccountId"] == BOT, "{connected}");
    let id = text(&connected["connectionId"])?;
    let (door, secret) = (text(&connected["webhookUrl"])?, text(&connected["webhookSecret"])?);
    let mailbox = MailBox { stage, door, secret };
    let (stage, door) = (&mailbox.stage, &mailbox.door);
    ensure!(stage.http.post(door).body(mail("m0@x", "", "hi")).send().await?.status() == 403, "an unsigned mail");
    ensure!(mailbox.tells("c0", "application/json", "{}".to_owned()).await? == 400, "nothing is a mail");

    // Handed over twice, by two ways; the server is busy the first time. What is quoted is not said.
    book.lock().unwrap_or_else(PoisonError::into_inner).busy = 1;
    let first = mail("m1@x", "", "/help\n\nOn Mon, 5 Jan 2026, Bot wrote:\n> What is it?\n");
    ensure!(mailbox.tells("c1", "message/rfc822", first.clone()).await? == 200, "a mail");
    let again = json!({ "raw": BASE64.encode(&first) }).to_string();
    ensure!(mailbox.tells("c2", "application/json", again).await? == 200, "the same in JSON");
    until("it is answered", || async { Ok(!mails().is_empty()) }).await?;
    let answer = mails().remove(0);
    ensure!(header(&answer, "To")? == "grace@x.example" && header(&answer, "From")? == BOT, "{answer}");
    ensure!(header(&answer, "Subject")? == "Re: A question" && header(&answer, "In-Reply-To")? == "<m1@x>", "{answer}");
    ensure!(header(&answer, "Auto-Submitted")? == "auto-replied", "{answer}");
    ensure!(
        answer.contains("text/plain") && answer.contains("text/html") && answer.contains("I am Symbia."),
        "{answer}"
    );
    let own = header(&answer, "Message-ID")?;

    // A program that answers by itself is not heard; a person who answers the answer is, in the same conversation, with a file.
    let away = format!("Auto-Submitted: auto-replied\nIn-Reply-To: {own}\n");
    ensure!(mailbox.tells("c3", "message/rfc822", mail("m2@x", &away, "I am away.")).await? == 200, "an auto-reply");
    let more = format!(
        "In-Reply-To: {own}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n\
         Thanks!\n--b\nContent-Type: text/csv\nContent-Disposition: attachment; filename=a.csv\n\n1,2\n--b--\n"
    );
    let more = json!({ "raw": mail("m3@x", &more, "") }).to_string();
    ensure!(mailbox.tells("c4", "application/json", more).await? == 200, "an answer");
    let said = async || {
        let found = stage.ask_at(&stage.messaging, &ada, "GET", "/api/conversations", None).await?.body;
        ensure!(found[1].is_null(), "one thread is several conversations: {found}");
        let path = format!("/api/conversations/{}/messages", text(&found[0]["id"])?);
        let all = stage.ask_at(&stage.messaging, &ada, "GET", &path, None).await?.body;
        let mut all = all.as_array().cloned().unwrap_or_default();
        all.retain(|message| message["sender_type"] == "user");
        all.sort_by_key(|message| message["sequence"].as_i64());
        ensure!(found[0]["name"] == "A question", "{found}");
        anyhow::Ok(all)
    };
    until("it is said", || async { Ok(said().await?.len() == 2) }).await?;
    let all = said().await?;
    ensure!(all[0]["content"] == "/help" && all[1]["content"] == "Thanks!", "{all:?}");
    ensure!(all[0]["metadata"]["channelSender"]["id"] == "grace@x.example", "{}", all[0]);
    let file = text(&all[1]["metadata"]["attachments"][0]["url"])?;
    let file = stage.ask_at(&stage.messaging, &ada, "GET", &file, None).await?;
    ensure!(file.body == "1,2", "{}", file.body);

    // What there is no room for that day is left out of its message, on record.
    let large = format!(
        "In-Reply-To: {own}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n\
         And this\n--b\nContent-Type: text/csv\nContent-Disposition: attachment; filename=b.csv\n\n{}\n--b--\n",
        "1,2,3,4\n".repeat(140_000)
    );
    ensure!(mailbox.tells("c6", "message/rfc822", mail("m6@x", &large, "")).await? == 200, "a large mail");
    until("it is said without the file", || async { Ok(said().await?.len() == 3) }).await?;
    let left = said().await?[2]["metadata"]["attachments"][0].clone();
    ensure!(left["error"] == "no_room" && left["filename"] == "b.csv" && left["url"].is_null(), "{left}");
    until("it is counted", || async {
        let found = stage.ask(&ada, "GET", &format!("{CHANNELS}/connections"), None).await?.body;
        Ok(found["connections"][0]["filesRefused"] == 1)
    })
    .await?;

    // Begun by hand, and come back.
    let send = format!("{CHANNELS}/connections/{id}/send");
    let body = |to: &str| Some(json!({ "chatId": to, "text": "**Hello**\n\nmore" }));
    let refused = stage.ask(&ada, "POST", &send, body("nobody@x.example")).await?;
    ensure!(refused.status == 400 && refused.body["reason"] == "undeliverable", "{}", refused.body);
    // What is answered to a thread goes to the chat of that name.
    let begun = stage.ask(&ada, "POST", &send, body("ada@x.example/0123456789abcdef")).await?.body;
    let begun = text(&begun["messageId"])?;
    // The assistant may say something meanwhile.
    let last = mails().into_iter().find(|mail| mail.contains("\nTo: ada@x.example\n")).context("no mail")?;
    ensure!(header(&last, "Subject")? == "Hello" && header(&last, "Message-ID")? == format!("<{begun}>"), "{last}");
    let report = format!(
        "Return-Path: <>\nMIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
         --b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x.example\n\n\
         Final-Recipient: rfc822; ada@x.example\nAction: failed\nStatus: 5.1.1\n\n\
         --b\nContent-Type: text/rfc822-headers\n\nMessage-ID: <{begun}>\n\n--b--\n"
    );
    ensure!(mailbox.tells("c5", "message/rfc822", mail("m4@x", &report, "")).await? == 200, "a report");
    let log = stored(stage).await?;
    ensure!(log.contains("bounced_5.1.1") && log.contains(&begun), "the mail that came back is not noted");
    ensure!(!log.contains(PASSWORD) && !log.contains(&mailbox.secret) && !log.contains("A question"), "the log tells");
    ensure!(said().await?.len() == 3, "a program was heard");
    Ok(())
}
