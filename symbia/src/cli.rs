//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use symbia_events::{Position, Service};

use crate::{chat::ChatOptions, llm::LlmCommand, mcp::McpOptions, models::ModelsCommand, people::PeopleCommand};

/// Symbia: people and AI agents work together, and every step can be proved.
#[derive(Debug, Parser)]
#[command(
    name = "symbia",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 3 a check found something, 4 a command was refused."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every subcommand.
#[derive(Debug, Args)]
pub struct Global {
    /// Where keys, and the data of the servers that we start, are kept
    #[arg(long, global = true, env = "SYMBIA_DATA_DIR", default_value = ".symbia")]
    pub data_dir: PathBuf,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Directory of the GGUF models [default: models/ here, beside the program or above it, else in the data directory]
    #[arg(long, global = true, env = "MODELS_PATH")]
    pub models_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything: NATS and PostgreSQL unless configured, every service, worker and projection
    Up(UpOptions),
    /// Serve the APIs
    Serve(ServeOptions),
    /// Run workers
    Work(WorkOptions),
    /// Fold the log into the read models
    Project,
    /// Create or upgrade keys, streams and tables
    Migrate,
    /// Check what this machine has and lacks
    Doctor,
    /// The key ring: what signs the log
    #[command(subcommand)]
    Ring(RingCommand),
    /// Commands
    #[command(subcommand, name = "command")]
    Send(CommandCommand),
    /// Read models
    #[command(subcommand)]
    Projection(ProjectionCommand),
    /// Load the demo data into the platform that runs; what is there already stays as it is
    Seed,
    /// Talk to an assistant
    Chat(ChatOptions),
    /// The language models of this installation
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Ask a local model directly
    #[command(subcommand)]
    Llm(LlmCommand),
    /// Give a program the platform's tools over standard input and output (Model Context Protocol)
    Mcp(McpOptions),
    #[command(flatten)]
    People(PeopleCommand),
    /// The log: look at it, take it elsewhere, mend it
    #[command(subcommand)]
    Log(LogCommand),
    /// Proofs that the log is whole
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Fold the log into a scratch database, up to a point, and compare with the live one
    Replay(ReplayOptions),
}

#[derive(Debug, Args)]
pub struct UpOptions {
    /// When an event counts as stored
    #[arg(long, env = "SYMBIA_DURABILITY", value_enum, default_value_t = DurabilityOption::Fsync)]
    pub durability: DurabilityOption,
    /// Port of the NATS server that we start [default: 4222, or a free one when that is taken]
    #[arg(long)]
    pub nats_port: Option<u16>,
    /// Keep everything in a temporary directory and remove it at exit
    #[arg(long)]
    pub memory: bool,
    /// Add to every service's default port, so that several can run side by side
    #[arg(long, default_value_t = 0)]
    pub port_offset: u16,
    /// Do not create the first super admin
    #[arg(long)]
    pub skip_admin: bool,
    #[command(flatten)]
    pub admin: AdminOptions,
}

/// The first super admin, when there is nobody to ask.
#[derive(Clone, Debug, Args)]
pub struct AdminOptions {
    /// Name of the first super admin
    #[arg(long, env = "SYMBIA_ADMIN_NAME")]
    pub admin_name: Option<String>,
    /// E-mail address of the first super admin
    #[arg(long, env = "SYMBIA_ADMIN_EMAIL")]
    pub admin_email: Option<String>,
    /// File that holds the first super admin's password
    #[arg(long, env = "SYMBIA_ADMIN_PASSWORD_FILE")]
    pub admin_password_file: Option<PathBuf>,
    /// Name of the first organization
    #[arg(long, env = "SYMBIA_ADMIN_ORG")]
    pub admin_org: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DurabilityOption {
    /// Every write is on disk before it is acknowledged
    Fsync,
    /// Writes reach the disk within 0.1 s: a crash of the operating system may lose that much
    Interval,
}

#[derive(Debug, Args)]
pub struct ServeOptions {
    /// Which services [default: all]
    #[arg(long, value_delimiter = ',')]
    pub services: Vec<Service>,
}

#[derive(Debug, Args)]
pub struct WorkOptions {
    /// Which workers [default: all but inference, which belongs into a process of its own]
    #[arg(long, value_delimiter = ',')]
    pub roles: Vec<WorkRole>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkRole {
    /// Decides commands
    Command,
    /// Sends commands when their time has come, and destroys the keys of what is erased
    Timer,
    /// Seals the log every hour
    Seal,
    /// Lets assistants answer, by their rules
    RuleEngine,
    /// Keeps the directory in step with users and agents
    Directory,
    /// Delivers the mesh's events, and gives up nodes that fell silent
    Mesh,
    /// Asks language models
    LlmRouter,
    /// Says in conversations what is said in chats of messengers, and there what is answered
    Channels,
    /// Loads and unloads models, and records what becomes of them
    Models,
    /// Runs the language models on this machine
    Inference,
}

impl WorkRole {
    /// Those that run in one process.
    pub const ALL: [WorkRole; 9] = [
        WorkRole::Command,
        WorkRole::Timer,
        WorkRole::Seal,
        WorkRole::RuleEngine,
        WorkRole::Directory,
        WorkRole::Mesh,
        WorkRole::LlmRouter,
        WorkRole::Channels,
        WorkRole::Models,
    ];
}

#[derive(Debug, Subcommand)]
pub enum RingCommand {
    /// Show the keys, without their secrets
    List,
    /// Add a new active key; running processes pick it up when they start again
    Rotate,
    /// Put a new key-encryption key before the present one; what is kept is wrapped anew when the platform starts again
    ///
    /// Stop the platform first: a process that knows only the present key cannot read what the new one wraps.
    RotateKek,
    /// Show the public key that a broker of your own believes: `issuer` of its `auth_callout`
    BrokerIssuer,
    /// Stop accepting what a key signed
    Retire {
        /// Key id, e.g. k1
        kid: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum CommandCommand {
    /// Publish a command and print its outcome
    Send {
        /// Command type, e.g. symbia.cmd.identity.rename-organization.v1
        command_type: String,
        /// The aggregate: SERVICE/TENANT/KIND/ID
        aggregate: String,
        /// The data as JSON; `-` reads it from standard input
        data: String,
        /// Repeat a command with the id it had
        #[arg(long)]
        id: Option<uuid::Uuid>,
        /// Act as this principal [default: the operator of this data directory]
        #[arg(long)]
        actor: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ProjectionCommand {
    /// Show the read models and how far they are
    List,
    /// Build a read model anew beside the live one, and swap it in
    Rebuild {
        /// Which, e.g. identity
        name: String,
    },
    /// Build read models beside the live ones and compare
    Verify {
        /// Which [default: all]
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Print the last events
    Tail(TailOptions),
    /// Print a message, an event, every event of an aggregate, or the story of a conversation, and whether signatures verify
    Show {
        /// A position (identity:12), an event's id, or an aggregate (SERVICE/TENANT/KIND/ID)
        #[arg(required_unless_present = "conversation")]
        what: Option<String>,
        /// A conversation's id: who said what, why which rule answered, by which model
        #[arg(long, conflicts_with = "what")]
        conversation: Option<String>,
    },
    /// Write the log to a file, auditing it on the way; the last line is its signed heads
    Export {
        /// Where to [default: standard output]
        #[arg(long)]
        out: Option<PathBuf>,
        /// Which streams [default: all]
        #[arg(long, value_delimiter = ',')]
        service: Vec<Service>,
    },
    /// Fill an empty log from an export, after verifying all of it
    Import {
        /// The export
        file: PathBuf,
    },
    /// Mend broken streams from an export; without --yes it only shows what would change
    Restore {
        /// An export whose signed heads and chains verify
        #[arg(long)]
        from: PathBuf,
        /// Which streams [default: all of the export]
        #[arg(long, value_delimiter = ',')]
        service: Vec<Service>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Finish an import or restore that was interrupted
    Resume,
}

#[derive(Debug, Args)]
pub struct TailOptions {
    /// Which streams [default: all]
    #[arg(long, value_delimiter = ',')]
    pub service: Vec<Service>,
    /// Only events of this organization, or `global`
    #[arg(long)]
    pub tenant: Option<String>,
    /// Go on with what comes
    #[arg(long, short)]
    pub follow: bool,
    /// Start here, e.g. identity:12; may be given once for each stream
    #[arg(long)]
    pub from: Vec<Position>,
    /// So many messages of each stream, where no start is given
    #[arg(long, short = 'n', default_value_t = 20)]
    pub lines: u64,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check every signature, chain, gap and order against seals, checkpoints and heads
    Verify {
        /// An export, instead of the live log
        #[arg(long)]
        file: Option<PathBuf>,
        /// Signed heads that the log must contain
        #[arg(long)]
        heads: Option<PathBuf>,
    },
    /// Write signed heads, to be kept where the log is not
    Heads {
        /// Where to [default: standard output]
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Write the proof that an event is in a sealed stretch of the log
    Prove {
        /// An event's id, or the position of a message with one event (identity:12)
        what: String,
        /// Where to [default: standard output]
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Check such a proof with nothing but the key ring
    CheckProof {
        /// The proof
        file: PathBuf,
    },
    /// Seal what is not sealed yet, now
    Seal,
}

#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// Decide a run of an assistant again, without calling a model, and compare
    Run {
        /// Id of the run; `symbia log show --conversation` tells it
        run_id: String,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReplayOptions {
    #[command(subcommand)]
    pub what: Option<ReplayCommand>,
    /// Up to where: positions (identity:120,logging:7; streams that are not named are taken whole), a time (RFC 3339, as stored
    /// by the broker), or `latest`
    #[arg(long, default_value = "latest")]
    pub to: String,
    /// Keep the scratch database
    #[arg(long)]
    pub keep: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_subcommand_can_be_parsed() {
        Cli::command().debug_assert();
    }
}
