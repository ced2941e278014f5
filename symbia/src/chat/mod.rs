//! `symbia chat`: a conversation with an assistant in the terminal, over the public API like any other client.

mod api;
mod exchange;
pub(crate) mod sse;

use std::{
    io::{BufRead, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use symbia_events::Service;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::timeout,
};
use uuid::Uuid;

use crate::{
    Ended,
    config::Config,
    exit,
    session::{Sessions, SignIn},
};
use api::Api;
use exchange::{Exchange, Status, Step};

/// How long what belongs to an exchange may take to arrive after the run has told its end.
const REST: Duration = Duration::from_secs(5);
const INTERRUPTED: u8 = 130;

/// `symbia chat`.
#[derive(Debug, Args)]
pub struct ChatOptions {
    /// Ask this and leave after the answer [default: read lines until the end of input]
    pub message: Option<String>,
    /// Go on with this conversation [default: open one]
    #[arg(long)]
    pub conversation: Option<String>,
    /// Whom to talk to
    #[arg(long, default_value = symbia_commands::assistants::seed::ASSISTANT_KEY)]
    pub assistant: String,
    #[command(flatten)]
    pub sign_in: SignIn,
    /// Organization, for those who have several
    #[arg(long)]
    pub org: Option<String>,
    /// Address of the identity service [default: this machine]
    #[arg(long)]
    pub identity_url: Option<String>,
    /// Address of the messaging service [default: this machine]
    #[arg(long)]
    pub messaging_url: Option<String>,
}

/// Runs the subcommand.
pub async fn run(config: &Config, options: ChatOptions) -> Ended {
    let url = |given: &Option<String>, service: Service| {
        let here = || format!("http://127.0.0.1:{}", config.port(service));
        given.as_deref().map_or_else(here, |url| url.trim_end_matches('/').to_owned())
    };
    let identity = url(&options.identity_url, Service::Identity);
    let credential = Sessions::at(&identity)?.credential(&options.sign_in).await?;
    let api = Api::new(url(&options.messaging_url, Service::Messaging), credential, options.org.clone())?;
    let conversation = match &options.conversation {
        Some(id) => api.conversation(id).await?,
        None => api.open(&format!("assistant:{}", options.assistant)).await?,
    };
    let interrupts = signal(SignalKind::interrupt())?;
    let mut chat = Chat { json: config.json, api, conversation, interrupts, interactive: options.message.is_none() };
    if !chat.json {
        eprintln!("conversation {}", chat.conversation.id);
    }
    match options.message {
        Some(message) => Ok(ExitCode::from(chat.exchange(&message).await?)),
        None => chat.talk().await,
    }
}

struct Chat {
    json: bool,
    interactive: bool,
    api: Api,
    conversation: api::Conversation,
    // Heard all the time: one that comes while something is printed is not lost.
    interrupts: Signal,
}

impl Chat {
    async fn talk(&mut self) -> Ended {
        let mut lines = lines();
        loop {
            if std::io::stdin().is_terminal() {
                eprint!("> ");
                std::io::stderr().flush()?;
            }
            let line = tokio::select! {
                line = lines.recv() => line,
                _ = self.interrupts.recv() => None,
            };
            let Some(line) = line else { return Ok(ExitCode::SUCCESS) };
            if line.trim().is_empty() {
                continue;
            }
            let code = self.exchange(&line).await?;
            if code == INTERRUPTED {
                return Ok(ExitCode::from(code));
            }
        }
    }

    /// Says something and shows what comes of it; gives the exit code.
    async fn exchange(&mut self, text: &str) -> anyhow::Result<u8> {
        // First, so that nothing of the answer is missed.
        let mut events = self.api.follow(&self.conversation.id).await?;
        let message = Uuid::new_v4();
        self.api.send(&self.conversation.id, message, text).await?;
        if !self.conversation.has_assistant {
            return self.report(&Exchange::new(message));
        }
        let mut exchange = Exchange::new(message);
        let mut screen = Screen { on: !self.json, printed: String::new() };
        let mut interrupted = false;
        loop {
            let event = tokio::select! {
                event = timeout(if exchange.is_ending() { REST } else { Duration::MAX }, events.next()) => event,
                _ = self.interrupts.recv(), if !interrupted => {
                    interrupted = true;
                    self.api.cancel(&self.conversation.id).await.context("the answer could not be stopped")?;
                    continue;
                }
            };
            // What is still missing after the end of the run does not come any more.
            let Ok(event) = event else { break };
            match exchange.take(&event?) {
                Step::Nothing => {}
                Step::Piece(piece) => screen.piece(&piece)?,
                Step::Again => screen.again()?,
                Step::Answer(text) => screen.answer(&text)?,
                Step::Closed(reason) => bail!("the conversation was closed to you: {reason}"),
            }
            if exchange.is_over() {
                break;
            }
        }
        let code = self.report(&exchange)?;
        Ok(if interrupted { INTERRUPTED } else { code })
    }

    fn report(&self, exchange: &Exchange) -> anyhow::Result<u8> {
        if self.json {
            let mut told = json!(exchange);
            told["conversationId"] = json!(self.conversation.id);
            println!("{told}");
        } else if exchange.status() == Some(Status::Cancelled) {
            eprintln!("(stopped)");
        }
        std::io::stdout().flush()?;
        let failed = matches!(exchange.status(), Some(Status::Failed));
        Ok(if failed && !self.interactive { exit::FAILED } else { 0 })
    }
}

/// Shows an answer as it comes.
struct Screen {
    on: bool,
    printed: String,
}

impl Screen {
    fn piece(&mut self, piece: &str) -> std::io::Result<()> {
        self.printed.push_str(piece);
        self.print(piece)
    }

    fn again(&mut self) -> std::io::Result<()> {
        if !self.printed.is_empty() && self.on {
            self.print("\n")?;
            eprintln!("(the model was lost; the answer begins anew)");
        }
        self.printed.clear();
        Ok(())
    }

    // The stored message counts: what was not printed of it follows, and another text is printed as a whole.
    fn answer(&mut self, text: &str) -> std::io::Result<()> {
        let printed = std::mem::take(&mut self.printed);
        match text.trim_end().strip_prefix(printed.trim_end()) {
            Some(rest) => self.print(&format!("{rest}\n")),
            None => self.print(&format!("\n{text}\n")),
        }
    }

    fn print(&self, text: &str) -> std::io::Result<()> {
        if !self.on {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

// Reading a terminal blocks, and cannot be given up: it has a thread of its own.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
