//! Mail: a file per message in development, SMTP where it is configured, or none at all.
//!
//! Texts are plain and made here; nothing a user typed gets into a header.

use std::{fmt, os::unix::fs::OpenOptionsExt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;
use zeroize::Zeroizing;

/// One message. It holds a secret link: `Debug` shows its subject only.
pub struct Mail {
    /// Address of the receiver.
    pub to: String,
    /// Subject line.
    pub subject: &'static str,
    /// Plain text.
    pub text: Zeroizing<String>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// An address that no mail can go to.
    #[error("the address is not one that mail can be sent to")]
    Address,
    /// The message cannot be written down.
    #[error("the mail directory cannot be written: {0}")]
    File(#[from] std::io::Error),
    /// The mail server refused, or is away.
    #[error("the mail server: {0}")]
    Smtp(String),
    /// The settings are unusable.
    #[error("SMTP_{name} {reason}")]
    Settings {
        /// Which.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Sends mail.
#[async_trait]
pub trait Mailer: Send + Sync + 'static {
    /// Hands a message over.
    async fn send(&self, mail: Mail) -> Result<(), MailError>;
}

/// A mailer that can be shared.
#[derive(Clone)]
pub struct SharedMailer(pub Arc<dyn Mailer>);

impl fmt::Debug for SharedMailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedMailer")
    }
}

/// Writes each message to a file that only the owner can read, for development.
pub struct FileMailer {
    directory: PathBuf,
}

impl FileMailer {
    /// Into a directory, made when it is needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        FileMailer { directory }
    }
}

#[async_trait]
impl Mailer for FileMailer {
    async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let message = message("symbia@localhost.localdomain", &mail)?;
        tokio::fs::create_dir_all(&self.directory).await?;
        // Sorted by time; complete when it has its name.
        let name = Uuid::now_v7();
        let (new, path) = (self.directory.join(format!("{name}.new")), self.directory.join(format!("{name}.eml")));
        let mut options = std::fs::File::options();
        options.create_new(true).write(true).mode(0o600);
        let mut file = tokio::fs::OpenOptions::from(options).open(&new).await?;
        file.write_all(&message.formatted()).await?;
        file.sync_all().await?;
        Ok(tokio::fs::rename(new, path).await?)
    }
}

/// Where SMTP mail goes out.
#[derive(Clone)]
pub struct SmtpOptions {
    /// Host; TLS is required of it, by its name.
    pub host: String,
    /// Port: 465 speaks TLS from the start, any other STARTTLS.
    pub port: u16,
    /// User, when it asks for one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Zeroizing<String>>,
    /// Sender.
    pub from: String,
}

/// Sends over SMTP with TLS.
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: String,
}

impl SmtpMailer {
    /// A mailer that connects when it first sends.
    ///
    /// # Errors
    /// The settings are unusable.
    pub fn new(options: SmtpOptions) -> Result<Self, MailError> {
        let invalid = |name, reason: &dyn fmt::Display| MailError::Settings { name, reason: reason.to_string() };
        options.from.parse::<Mailbox>().map_err(|e| invalid("FROM", &e))?;
        let builder = match options.port {
            465 => AsyncSmtpTransport::<Tokio1Executor>::relay(&options.host),
            _ => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(&options.host),
        };
        let mut builder = builder.map_err(|e| invalid("HOST", &e))?.port(options.port);
        if let (Some(user), Some(password)) = (options.user, options.password) {
            builder = builder.credentials(Credentials::new(user, password.to_string()));
        }
        Ok(SmtpMailer { transport: builder.build(), from: options.from })
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let message = message(&self.from, &mail)?;
        self.transport.send(message).await.map(|_| ()).map_err(|e| MailError::Smtp(e.to_string()))
    }
}

fn message(from: &str, mail: &Mail) -> Result<Message, MailError> {
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| MailError::Address);
    Message::builder()
        .from(mailbox(from)?)
        .to(mailbox(&mail.to)?)
        .subject(mail.subject)
        .header(ContentType::TEXT_PLAIN)
        .body(mail.text.to_string())
        .map_err(|_| MailError::Address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn mail(to: &str) -> Mail {
        Mail { to: to.to_owned(), subject: "Hello", text: Zeroizing::new("a secret link".to_owned()) }
    }

    #[tokio::test]
    async fn a_message_is_a_file_of_its_own_and_an_address_cannot_add_headers() {
        let directory = tempfile::tempdir().unwrap();
        let mailer = FileMailer::new(directory.path().join("mail"));
        mailer.send(mail("ada@example.test")).await.unwrap();
        let files: Vec<_> = std::fs::read_dir(directory.path().join("mail")).unwrap().collect();
        let text = std::fs::read_to_string(files[0].as_ref().unwrap().path()).unwrap();
        assert!(files.len() == 1 && text.contains("To: ada@example.test") && text.contains("a secret link"), "{text}");
        assert!(mailer.send(mail("ada@example.test\r\nBcc: eve@example.test")).await.is_err());
        assert!(!format!("{:?}", mail("ada@example.test")).contains("secret"));
    }
}
