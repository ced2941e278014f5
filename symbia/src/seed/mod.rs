//! `symbia seed`: demo data, through commands like any other. Their ids are derived, so that what was done is not done again.

mod demo;
mod mesh;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use anyhow::Context;
use serde::Serialize;
use symbia_api::identity::email_key;
use symbia_commands::{
    Actor, DomainCommand,
    identity::{
        AddMember, AgentCommand, CreateOrganization, CreatePlan, CreateProject, GrantEntitlement, GrantRole,
        GrantSuperAdmin, GrantsCommand, OrganizationCommand, PlanCommand, ProjectCommand, RegisterAgent, RegisterUser,
        UserCommand,
    },
    messaging::{ConversationCommand, CreateConversation, NewParticipant},
};
use symbia_events::{
    AggregateRef, CommandId, KeyRing, OrgId, Service, SubjectKey,
    messaging::{ConversationType, ParticipantType, content_key_id},
};
use symbia_projections::secrets::{SecretError, SecretStore};
use symbia_workers::sender::Sender;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Ended,
    config::Config,
    connect::Connected,
    exit,
    roles::checked_secrets,
    seed::demo::{
        AGENT_CAPABILITIES, AGENTS, CONVERSATIONS, LIMITS, NAMESPACE, ORGS, PASSWORD, PLANS, PROJECTS, USERS, user_id,
    },
};

/// Codes that say: this is there already.
const THERE: [&str; 3] = ["CONFLICT", "ALREADY_MEMBER", "ALREADY_GRANTED"];

/// Runs the subcommand.
pub async fn run(config: &Config) -> Ended {
    if config.production {
        eprintln!("symbia: the demo users have a password that everybody knows: refused when SYMBIA_ENV=prod");
        return Ok(ExitCode::from(exit::USAGE));
    }
    let (home, house) = Connected::open(config).await?;
    let secrets = checked_secrets(config, &home, &house).await?;
    let bus = house.bus.clone();
    let (keys, sender) = (Arc::clone(&house.keys), Sender::new(bus, house.keys));
    let mut seeding =
        Seeding { keys, sender, secrets, cost: config.bcrypt_cost, absent: Vec::new(), done: Report::default() };
    seeding.all().await?;
    Ok(seeding.done.print(config.json))
}

/// What became of the seed.
#[derive(Default, Serialize)]
struct Report {
    /// Made now.
    made: Vec<String>,
    /// There already.
    unchanged: Vec<String>,
    /// Refused, with the reason: something else has the place.
    refused: BTreeMap<String, String>,
}

impl Report {
    fn print(&self, json: bool) -> ExitCode {
        if json {
            println!("{}", serde_json::json!(self));
        } else {
            for what in &self.made {
                println!("made     {what}");
            }
            for (what, reason) in &self.refused {
                println!("refused  {what}: {reason}");
            }
            println!("{} made, {} there already", self.made.len(), self.unchanged.len());
            if !self.made.is_empty() {
                println!("The password of every demo user is {PASSWORD}.");
            }
        }
        ExitCode::from(if self.refused.is_empty() { 0 } else { exit::REFUSED })
    }
}

struct Seeding {
    keys: Arc<KeyRing>,
    sender: Sender,
    secrets: SecretStore,
    cost: u32,
    /// Users that are not there, and for whom nothing is done.
    absent: Vec<usize>,
    done: Report,
}

impl Seeding {
    // What something else refers to comes first.
    async fn all(&mut self) -> anyhow::Result<()> {
        self.plans().await?;
        self.users().await?;
        self.orgs().await?;
        self.grants().await?;
        self.agents().await?;
        self.conversations().await?;
        // An organization that is not there has no mesh.
        if self.done.refused.contains_key("organization symbia-labs") || self.absent.contains(&0) {
            return Ok(());
        }
        self.mesh().await
    }

    async fn plans(&mut self) -> anyhow::Result<()> {
        for plan in PLANS {
            let command = PlanCommand::from(CreatePlan {
                plan_id: plan.id.to_owned(),
                name: plan.name.to_owned(),
                features: owned(plan.features),
                limits: LIMITS
                    .iter()
                    .zip(plan.limits)
                    .map(|(name, limit)| ((*name).to_owned(), limit.into()))
                    .collect(),
                price_cents: plan.price_cents,
            });
            self.send(format!("plan {}", plan.name), at(Service::Identity, OrgId::GLOBAL, "plan", plan.id)?, command)
                .await?;
        }
        Ok(())
    }

    async fn users(&mut self) -> anyhow::Result<()> {
        for (n, user) in USERS.iter().enumerate() {
            let (id, what) = (user_id(n), format!("user {}", user.email));
            // What was erased since stays so.
            let (Some(key), Some(password_ref)) = (self.subject_key(&id).await?, self.password(&id).await?) else {
                self.absent.push(n);
                self.done.unchanged.push(what);
                continue;
            };
            let command = UserCommand::from(RegisterUser {
                user_id: id.clone(),
                email: key.seal(user.email),
                email_key: email_key(&self.keys, user.email),
                name: key.seal(user.name),
                password_ref,
                password_algo: "bcrypt".to_owned(),
                source: "seed".to_owned(),
            });
            let address = at(Service::Identity, OrgId::GLOBAL, "user", &id)?;
            if !self.send(what, address.clone(), command).await? {
                self.absent.push(n);
            } else if user.super_admin {
                let command = UserCommand::from(GrantSuperAdmin { user_id: id });
                self.send(format!("super admin {}", user.email), address, command).await?;
            }
        }
        Ok(())
    }

    async fn orgs(&mut self) -> anyhow::Result<()> {
        for org in ORGS {
            let address = at(Service::Identity, org.id, "organization", org.id)?;
            let membership =
                |n: usize| Uuid::new_v5(&NAMESPACE, format!("member {} {n}", org.id).as_bytes()).to_string();
            let Some(((founder, _), others)) = org.members.split_first() else { continue };
            let command = OrganizationCommand::from(CreateOrganization {
                org_id: org.id.to_owned(),
                name: org.name.to_owned(),
                slug: org.slug.to_owned(),
                plan_id: Some(org.plan.to_owned()),
                membership_id: membership(*founder),
                owner_id: user_id(*founder),
            });
            if self.absent.contains(founder)
                || !self.send(format!("organization {}", org.slug), address.clone(), command).await?
            {
                continue;
            }
            for (n, role) in others.iter().filter(|(n, _)| !self.absent.contains(n)).collect::<Vec<_>>() {
                let command = OrganizationCommand::from(AddMember {
                    org_id: org.id.to_owned(),
                    membership_id: membership(*n),
                    user_id: user_id(*n),
                    role: (*role).to_owned(),
                });
                let what = format!("{role} {} of {}", USERS[*n].email, org.slug);
                self.send(what, address.clone(), command).await?;
            }
            self.projects(org.id).await?;
        }
        Ok(())
    }

    async fn projects(&mut self, org: &str) -> anyhow::Result<()> {
        for project in PROJECTS.iter().filter(|project| project.org == org) {
            let command = ProjectCommand::from(CreateProject {
                project_id: project.id.to_owned(),
                org_id: org.to_owned(),
                name: project.name.to_owned(),
                slug: project.slug.to_owned(),
                description: None,
            });
            let address = at(Service::Identity, org, "project", project.id)?;
            self.send(format!("project {}", project.slug), address, command).await?;
        }
        Ok(())
    }

    async fn grants(&mut self) -> anyhow::Result<()> {
        for (n, user) in USERS.iter().enumerate() {
            if self.absent.contains(&n) {
                continue;
            }
            let (id, address) = (user_id(n), at(Service::Identity, OrgId::GLOBAL, "grants", &user_id(n))?);
            let grant_id = |key: &str| Uuid::new_v5(&NAMESPACE, format!("grant {n} {key}").as_bytes()).to_string();
            for key in user.entitlements {
                let command = GrantsCommand::from(GrantEntitlement {
                    principal_id: id.clone(),
                    grant_id: grant_id(key),
                    key: (*key).to_owned(),
                    expires_at: None,
                });
                self.send(format!("{key} for {}", user.email), address.clone(), command).await?;
            }
            for key in user.roles {
                let command = GrantsCommand::from(GrantRole {
                    principal_id: id.clone(),
                    grant_id: grant_id(key),
                    role_key: (*key).to_owned(),
                    expires_at: None,
                });
                self.send(format!("{key} for {}", user.email), address.clone(), command).await?;
            }
        }
        Ok(())
    }

    async fn agents(&mut self) -> anyhow::Result<()> {
        for agent in AGENTS {
            let command = AgentCommand::from(RegisterAgent {
                agent_row_id: agent.id.to_owned(),
                agent_id: agent.handle.to_owned(),
                name: agent.name.to_owned(),
                org_id: Some(agent.org.to_owned()),
                capabilities: owned(&AGENT_CAPABILITIES),
                requested_capabilities: Vec::new(),
                metadata: serde_json::Map::new(),
                credential_ref: format!("agent:{}:seed", agent.id),
                enrolled_by: "seed".to_owned(),
                enrolment_id: None,
            });
            self.send(format!("agent {}", agent.handle), at(Service::Identity, agent.org, "agent", agent.id)?, command)
                .await?;
        }
        Ok(())
    }

    async fn conversations(&mut self) -> anyhow::Result<()> {
        for talk in CONVERSATIONS {
            if self.absent.contains(&talk.owner) {
                continue;
            }
            let what = format!("conversation {}", talk.name);
            let Some(key) = self.subject_key(&content_key_id(talk.org, talk.id)).await? else {
                self.done.unchanged.push(what);
                continue;
            };
            let command = ConversationCommand::from(CreateConversation {
                conversation_id: talk.id.to_owned(),
                conversation_type: ConversationType::Group,
                name: Some(key.seal(talk.name)),
                description: None,
                org_id: talk.org.to_owned(),
                metadata: None,
                content_key_id: key.kid().to_owned(),
                owner: NewParticipant {
                    participant_id: Uuid::new_v5(&NAMESPACE, format!("participant {}", talk.id).as_bytes()).to_string(),
                    principal_id: user_id(talk.owner),
                    principal_type: ParticipantType::User,
                    entity_id: None,
                },
                participants: Vec::new(),
            });
            self.send(what, at(Service::Messaging, talk.org, "conversation", talk.id)?, command).await?;
        }
        Ok(())
    }

    /// A key of the store, made when there is none; `None` when it was destroyed.
    async fn subject_key(&self, kid: &str) -> anyhow::Result<Option<SubjectKey>> {
        if let Some(key) = self.secrets.subject_key(kid).await? {
            return Ok(Some(key));
        }
        let key = SubjectKey::generate(kid);
        match self.secrets.put_subject_key(&key).await {
            Ok(()) => Ok(Some(key)),
            Err(SecretError::Destroyed(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The reference of the password's hash; `None` when it was destroyed.
    async fn password(&self, user: &str) -> anyhow::Result<Option<String>> {
        let reference = format!("password:{user}");
        if self.secrets.secret(&reference).await?.is_some() {
            return Ok(Some(reference));
        }
        let cost = self.cost;
        let hash = tokio::task::spawn_blocking(move || bcrypt::hash(PASSWORD, cost)).await?;
        let hash = Zeroizing::new(hash.context("BCRYPT_COST")?);
        match self.secrets.put_secret(&reference, &hash).await {
            Ok(()) => Ok(Some(reference)),
            Err(SecretError::Destroyed(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is there now.
    async fn send(&mut self, what: String, to: AggregateRef, command: impl DomainCommand) -> anyhow::Result<bool> {
        self.send_by(&Actor::system("seed"), what, to, command).await
    }

    async fn send_by(
        &mut self,
        by: &Actor,
        what: String,
        to: AggregateRef,
        command: impl DomainCommand,
    ) -> anyhow::Result<bool> {
        let id = CommandId::derived(NAMESPACE, &what);
        let outcome = self.sender.send(None, &to, &command, by, id).await?;
        let there = match outcome.rejection {
            None => {
                let before = outcome.repeated || outcome.events.is_empty();
                let list = if before { &mut self.done.unchanged } else { &mut self.done.made };
                list.push(what);
                true
            }
            Some(rejection) if THERE.contains(&rejection.code.as_ref()) => {
                self.done.unchanged.push(what);
                true
            }
            Some(rejection) => {
                self.done.refused.insert(what, rejection.to_string());
                false
            }
        };
        Ok(there)
    }
}

fn at(service: Service, tenant: &str, kind: &str, id: &str) -> anyhow::Result<AggregateRef> {
    Ok(AggregateRef::new(service, tenant.parse()?, kind, id)?)
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
