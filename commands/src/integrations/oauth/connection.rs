//! A linked account: whose it is, and whether its token still counts. Its id follows from user, organization, provider and
//! account, so that linking it twice makes one.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        OauthConnectionEvent, OauthExpired, OauthLinked, OauthRefreshRequested, OauthRevoked, OauthTokenRefreshed,
    },
};
use time::OffsetDateTime;

use super::platforms;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What can be done about a linked account. Giving it up is its owner's; the rest is the platform's.
    OauthConnectionCommand: Integrations / "oauth-connection" {
        /// Its tokens are kept.
        LinkOauth = "symbia.cmd.integrations.link-oauth.v1" {
            connection_id: String,
            user_id: String,
            provider: String,
            credential_id: String,
            #[serde(default)]
            oauth_user_id: Option<Personal>,
            #[serde(default)]
            oauth_user_email: Option<Personal>,
            #[serde(default)]
            oauth_user_name: Option<Personal>,
            #[serde(default)]
            oauth_avatar_url: Option<Personal>,
            scopes: Vec<String>,
            #[serde(default)]
            expires_at: Option<String>,
            refreshable: bool,
        }
        /// Its token is soon over.
        RefreshOauth = "symbia.cmd.integrations.refresh-oauth.v1" { connection_id: String }
        /// Another token is kept.
        RecordOauthRefresh = "symbia.cmd.integrations.record-oauth-refresh.v1" {
            connection_id: String,
            #[serde(default)]
            expires_at: Option<String>,
            refreshable: bool,
        }
        /// Its provider gives no other one.
        ExpireOauth = "symbia.cmd.integrations.expire-oauth.v1" { connection_id: String, code: String }
        /// Gives it up.
        RevokeOauth = "symbia.cmd.integrations.revoke-oauth.v1" { connection_id: String }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    #[default]
    None,
    Active,
    Expired,
    Revoked,
}

/// A linked account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OauthConnection {
    user_id: String,
    provider: String,
    credential_id: String,
    refreshable: bool,
    status: Status,
}

impl OauthConnection {
    fn revoke(&self, c: RevokeOauth, by: &Actor) -> Result<Decision<OauthConnectionEvent>, Rejection> {
        if self.status == Status::None {
            return Err(Rejection::not_found("connection"));
        }
        if by.id != self.user_id {
            return Err(Rejection::forbidden("only its owner gives a connection up"));
        }
        if self.status == Status::Revoked {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(OauthRevoked {
            connection_id: c.connection_id,
            user_id: self.user_id.clone(),
            provider: self.provider.clone(),
            credential_id: self.credential_id.clone(),
            by: by.id.clone(),
        }))
    }
}

impl Aggregate for OauthConnection {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("connectionId");
    type Command = OauthConnectionCommand;
    type Event = OauthConnectionEvent;

    fn apply(&mut self, event: &OauthConnectionEvent) {
        match event {
            OauthConnectionEvent::OauthLinked(e) => {
                *self = OauthConnection {
                    user_id: e.user_id.clone(),
                    provider: e.provider.clone(),
                    credential_id: e.credential_id.clone(),
                    refreshable: e.refreshable,
                    status: Status::Active,
                };
            }
            OauthConnectionEvent::OauthRefreshRequested(_) => {}
            OauthConnectionEvent::OauthTokenRefreshed(e) => self.refreshable = e.refreshable,
            OauthConnectionEvent::OauthExpired(_) => self.status = Status::Expired,
            OauthConnectionEvent::OauthRevoked(_) => self.status = Status::Revoked,
        }
    }

    fn decide(
        &self,
        command: OauthConnectionCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<OauthConnectionEvent>, Rejection> {
        let command = match command {
            OauthConnectionCommand::RevokeOauth(c) => return self.revoke(c, by),
            command => command,
        };
        platforms(by)?;
        let active = self.status == Status::Active;
        Ok(match command {
            OauthConnectionCommand::LinkOauth(c) => Decision::one(OauthLinked {
                connection_id: c.connection_id,
                user_id: c.user_id,
                provider: c.provider,
                credential_id: c.credential_id,
                oauth_user_id: c.oauth_user_id,
                oauth_user_email: c.oauth_user_email,
                oauth_user_name: c.oauth_user_name,
                oauth_avatar_url: c.oauth_avatar_url,
                scopes: c.scopes,
                expires_at: c.expires_at,
                refreshable: c.refreshable,
            }),
            OauthConnectionCommand::RefreshOauth(c) if active && self.refreshable => {
                Decision::one(OauthRefreshRequested {
                    connection_id: c.connection_id,
                    user_id: self.user_id.clone(),
                    provider: self.provider.clone(),
                    credential_id: self.credential_id.clone(),
                })
            }
            OauthConnectionCommand::RefreshOauth(c) if active => {
                Decision::one(OauthExpired { connection_id: c.connection_id, code: "no_refresh_token".to_owned() })
            }
            OauthConnectionCommand::RecordOauthRefresh(c) if active => {
                let (connection_id, expires_at, refreshable) = (c.connection_id, c.expires_at, c.refreshable);
                Decision::one(OauthTokenRefreshed { connection_id, expires_at, refreshable })
            }
            OauthConnectionCommand::ExpireOauth(c) if active => {
                Decision::one(OauthExpired { connection_id: c.connection_id, code: c.code })
            }
            OauthConnectionCommand::RefreshOauth(_)
            | OauthConnectionCommand::RecordOauthRefresh(_)
            | OauthConnectionCommand::ExpireOauth(_)
            | OauthConnectionCommand::RevokeOauth(_) => Decision::nothing(),
        })
    }
}
