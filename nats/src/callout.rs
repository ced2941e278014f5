//! The broker asks who its clients are (NATS auth callout): reading the question, and writing the signed answer.
//!
//! A question is a JWT of the server about one connection; an answer is a JWT of the issuer whose public key stands in the
//! server's configuration, and holds the user JWT with what the client may do and until when.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Where the server asks.
pub const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// The account that admitted clients are put in, the one of the log and the bus.
const GLOBAL_ACCOUNT: &str = "$G";
const HEADER: &[u8] = br#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
const VERSION: u8 = 2;

/// A question or an answer cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CalloutError {
    /// It is no JWT of a NATS server, or its signature is not the server's.
    #[error("the broker's question cannot be read: {0}")]
    Question(&'static str),
    /// The key does not sign.
    #[error("the answer to the broker cannot be signed: {0}")]
    Signature(#[from] nkeys::error::Error),
    /// A claim that is no JSON.
    #[error("the answer to the broker cannot be written: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Who wants to connect.
pub struct Asked {
    /// The token, or the password beside any user name; empty when there is neither.
    pub credential: Zeroizing<String>,
    /// Where it comes from.
    pub host: String,
    server: String,
    user_key: String,
}

#[derive(Deserialize)]
struct Question {
    iss: String,
    nats: About,
}

#[derive(Deserialize)]
struct About {
    server_id: Server,
    user_nkey: String,
    client_info: Client,
    connect_opts: Options,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

#[derive(Deserialize)]
struct Client {
    #[serde(default)]
    host: String,
}

#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    auth_token: Zeroizing<String>,
    #[serde(default)]
    pass: Zeroizing<String>,
}

impl Asked {
    /// Reads a question.
    ///
    /// # Errors
    /// It is no question of the server that it names.
    pub fn read(payload: &[u8]) -> Result<Self, CalloutError> {
        let malformed = CalloutError::Question;
        let text = std::str::from_utf8(payload).map_err(|_| malformed("it is no text"))?;
        let (signed, signature) = text.rsplit_once('.').ok_or(malformed("it is no JWT"))?;
        let claims = signed.split_once('.').and_then(|(_, claims)| BASE64URL.decode(claims).ok());
        let claims = Zeroizing::new(claims.ok_or(malformed("it is no JWT"))?);
        let question: Question = serde_json::from_slice(&claims).map_err(|_| malformed("it lacks claims"))?;
        let signature = BASE64URL.decode(signature).map_err(|_| malformed("its signature is no base64url"))?;
        let server = KeyPair::from_public_key(&question.iss).map_err(|_| malformed("its issuer is no key"))?;
        server.verify(signed.as_bytes(), &signature).map_err(|_| malformed("its signature is wrong"))?;
        let About { server_id, user_nkey, client_info, connect_opts, kind } = question.nats;
        if kind != "authorization_request" || server_id.id != question.iss {
            return Err(malformed("it is not the server's own"));
        }
        let Options { auth_token, pass } = connect_opts;
        let credential = if auth_token.is_empty() { pass } else { auth_token };
        Ok(Asked { credential, host: client_info.host, server: server_id.id, user_key: user_nkey })
    }
}

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What the connection is called at the server.
    pub name: String,
    /// Subjects that it may publish on; at least one, for none would mean all.
    pub publish: Vec<String>,
    /// Subjects that it may subscribe to; at least one.
    pub subscribe: Vec<String>,
    /// Until when; then the server ends the connection.
    pub until: OffsetDateTime,
    /// Most subscriptions at once.
    pub subscriptions: u32,
    /// Largest message in bytes.
    pub payload: u32,
}

/// The key whose signature the server believes: that of an account.
pub struct Issuer(KeyPair);

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Issuer").field(&self.public_key()).finish()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: String,
    sub: &'a str,
    aud: &'a str,
    jti: Uuid,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    nats: Value,
}

impl Issuer {
    /// The key pair of 32 secret bytes.
    ///
    /// # Errors
    /// The bytes make no key.
    pub fn new(secret: [u8; 32]) -> Result<Self, CalloutError> {
        Ok(Issuer(KeyPair::new_from_raw(KeyPairType::Account, secret)?))
    }

    /// What stands as `issuer` in the server's configuration.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.0.public_key()
    }

    /// The answer that lets a client in.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn admit(&self, asked: &Asked, grant: &Grant, now: OffsetDateTime) -> Result<String, CalloutError> {
        let user = self.sign(&Claims {
            iss: self.public_key(),
            sub: &asked.user_key,
            aud: GLOBAL_ACCOUNT,
            jti: Uuid::new_v4(),
            iat: now.unix_timestamp(),
            name: Some(&grant.name),
            exp: Some(grant.until.unix_timestamp()),
            nats: json!({
                "type": "user", "version": VERSION,
                "pub": { "allow": grant.publish }, "sub": { "allow": grant.subscribe },
                "subs": grant.subscriptions, "payload": grant.payload, "data": -1,
            }),
        })?;
        self.answer(asked, json!({ "jwt": user }), now)
    }

    /// The answer that turns it away. The reason is for the server's log; a client learns only that it may not in.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn refuse(&self, asked: &Asked, reason: &str, now: OffsetDateTime) -> Result<String, CalloutError> {
        self.answer(asked, json!({ "error": reason }), now)
    }

    fn answer(&self, asked: &Asked, mut nats: Value, now: OffsetDateTime) -> Result<String, CalloutError> {
        nats["type"] = json!("authorization_response");
        nats["version"] = json!(VERSION);
        let (sub, aud, iat) = (asked.user_key.as_str(), asked.server.as_str(), now.unix_timestamp());
        self.sign(&Claims { iss: self.public_key(), sub, aud, jti: Uuid::new_v4(), iat, name: None, exp: None, nats })
    }

    fn sign(&self, claims: &Claims<'_>) -> Result<String, CalloutError> {
        let signed = format!("{}.{}", BASE64URL.encode(HEADER), BASE64URL.encode(serde_json::to_vec(claims)?));
        let signature = self.0.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn question(server: &KeyPair, claims: &Value) -> Vec<u8> {
        let signed = format!("{}.{}", BASE64URL.encode(HEADER), BASE64URL.encode(claims.to_string()));
        format!("{signed}.{}", BASE64URL.encode(server.sign(signed.as_bytes()).unwrap())).into_bytes()
    }

    fn claims(server: &KeyPair) -> Value {
        json!({ "iss": server.public_key(), "nats": {
            "type": "authorization_request", "server_id": { "id": server.public_key() }, "user_nkey": "UABC",
            "client_info": { "host": "127.0.0.1" }, "connect_opts": { "user": "any", "pass": "a token" },
        } })
    }

    #[test]
    fn a_question_is_believed_when_the_server_that_it_names_signed_it() {
        let (server, other) = (KeyPair::new_server(), KeyPair::new_server());
        let asked = Asked::read(&question(&server, &claims(&server))).unwrap();
        assert_eq!((asked.credential.as_str(), asked.host.as_str()), ("a token", "127.0.0.1"));
        assert!(Asked::read(&question(&other, &claims(&server))).is_err());
        let mut foreign = claims(&server);
        foreign["nats"]["server_id"]["id"] = json!(other.public_key());
        assert!(Asked::read(&question(&server, &foreign)).is_err());
        for garbage in [&b""[..], b"a.b.c", b"..", b"\xff"] {
            assert!(Asked::read(garbage).is_err());
        }
    }

    #[test]
    fn an_answer_is_signed_by_the_issuer_for_the_server_and_the_client_that_asked() {
        let (server, issuer) = (KeyPair::new_server(), Issuer::new([7; 32]).unwrap());
        let asked = Asked::read(&question(&server, &claims(&server))).unwrap();
        let now = OffsetDateTime::UNIX_EPOCH;
        let grant = Grant {
            name: "ada".to_owned(),
            publish: vec!["a".to_owned()],
            subscribe: vec!["b".to_owned()],
            until: now + time::Duration::minutes(5),
            subscriptions: 10,
            payload: 100,
        };
        let read = |jwt: &str| -> Value {
            let (signed, signature) = jwt.rsplit_once('.').unwrap();
            let key = KeyPair::from_public_key(&issuer.public_key()).unwrap();
            key.verify(signed.as_bytes(), &BASE64URL.decode(signature).unwrap()).unwrap();
            serde_json::from_slice(&BASE64URL.decode(signed.split_once('.').unwrap().1).unwrap()).unwrap()
        };
        let answer = read(&issuer.admit(&asked, &grant, now).unwrap());
        assert_eq!((&answer["aud"], &answer["sub"]), (&json!(server.public_key()), &json!("UABC")));
        let user = read(answer["nats"]["jwt"].as_str().unwrap());
        assert_eq!((&user["exp"], &user["nats"]["pub"]["allow"]), (&json!(300), &json!(["a"])));
        let refusal = read(&issuer.refuse(&asked, "no", now).unwrap());
        assert_eq!(refusal["nats"]["error"], "no");
    }
}
