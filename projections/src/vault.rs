//! Credentials of other providers: each under a data key of its own, which the key-encryption key wraps (identity.md §8.3).
//!
//! An entry opens only for the credential, owner, organization, provider and version that it was sealed for.

use aes_gcm::{
    Aes256Gcm, AesGcm, Nonce,
    aead::{Aead, KeyInit, Payload, consts::U16},
    aes::Aes256,
};
use sqlx::postgres::PgQueryResult;
use zeroize::Zeroizing;

use crate::secrets::{SecretError, SecretStore};

const ITEM_KEY: &str = "item-key";

/// What an entry is bound to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemContext<'a> {
    /// The credential.
    pub credential_id: &'a str,
    /// Whose it is.
    pub owner_id: &'a str,
    /// The organization it is kept for.
    pub org_id: Option<&'a str>,
    /// Whom it is for.
    pub provider: &'a str,
    /// Counts replacements, from 1.
    pub version: u32,
}

impl ItemContext<'_> {
    fn bytes(&self, reference: &str) -> Vec<u8> {
        // Struct fields in their order: the same bytes each time.
        let context = serde_json::to_string(self).unwrap_or_default();
        format!("v1\0{reference}\0{context}").into_bytes()
    }
}

#[derive(sqlx::FromRow)]
struct Item {
    #[sqlx(rename = "ref")]
    reference: String,
    kek_version: i32,
    key_nonce: Vec<u8>,
    wrapped_key: Vec<u8>,
    nonce: Vec<u8>,
    ciphertext: Vec<u8>,
}

const SELECT: &str = "SELECT ref, kek_version, key_nonce, wrapped_key, nonce, ciphertext FROM vault.items
                      WHERE destroyed IS NULL AND ";

impl SecretStore {
    /// Seals a credential under a new reference.
    pub async fn put_item(
        &self,
        reference: &str,
        context: &ItemContext<'_>,
        value: &Zeroizing<String>,
    ) -> Result<(), SecretError> {
        let failed = || SecretError::Wrap(reference.to_owned());
        let key = Zeroizing::new(rand::random::<[u8; 32]>());
        let (key_nonce, wrapped_key) = self.kek(self.version)?.wrap(ITEM_KEY, reference, key.as_ref())?;
        let nonce: [u8; 12] = rand::random();
        let aad = context.bytes(reference);
        let sealed = Aes256Gcm::new((&*key).into())
            .encrypt(&Nonce::from(nonce), Payload { msg: value.as_bytes(), aad: &aad })
            .map_err(|_| failed())?;
        let insert =
            "INSERT INTO vault.items (ref, owner_id, org_id, kek_version, key_nonce, wrapped_key, nonce, ciphertext)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(insert)
            .bind(reference)
            .bind(context.owner_id)
            .bind(context.org_id)
            .bind(self.version)
            .bind(&key_nonce[..])
            .bind(wrapped_key)
            .bind(&nonce[..])
            .bind(sealed)
            .execute(&self.pool)
            .await?;
        if inserted.rows_affected() == 1 { Ok(()) } else { Err(SecretError::Taken(reference.to_owned())) }
    }

    /// Opens a credential; `None` when there is none, or no longer.
    pub async fn item(
        &self,
        reference: &str,
        context: &ItemContext<'_>,
    ) -> Result<Option<Zeroizing<String>>, SecretError> {
        let select = sqlx::AssertSqlSafe(format!("{SELECT} ref = $1"));
        let found: Option<Item> = sqlx::query_as(select).bind(reference).fetch_optional(&self.pool).await?;
        let Some(item) = found else { return Ok(None) };
        let corrupt = || SecretError::Corrupt(reference.to_owned());
        let key = self.item_key(&item)?;
        let key: &[u8; 32] = key.as_slice().try_into().map_err(|_| corrupt())?;
        let nonce: [u8; 12] = item.nonce.as_slice().try_into().map_err(|_| corrupt())?;
        let aad = context.bytes(reference);
        let opened = Aes256Gcm::new(key.into())
            .decrypt(&Nonce::from(nonce), Payload { msg: &item.ciphertext, aad: &aad })
            .map_err(|_| corrupt())?;
        String::from_utf8(opened).map(|text| Some(Zeroizing::new(text))).map_err(|_| corrupt())
    }

    fn item_key(&self, item: &Item) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        self.kek(item.kek_version)?.unwrap(ITEM_KEY, &item.reference, &item.key_nonce, &item.wrapped_key)
    }

    /// Destroys a credential's secret. True when there was one.
    pub async fn destroy_item(&self, reference: &str) -> Result<bool, SecretError> {
        Ok(self.destroy_items("ref", reference).await?.rows_affected() > 0)
    }

    /// Destroys all secrets of a person who is gone.
    pub async fn destroy_items_of_owner(&self, owner_id: &str) -> Result<u64, SecretError> {
        Ok(self.destroy_items("owner_id", owner_id).await?.rows_affected())
    }

    /// Destroys all secrets that were kept for an organization that is gone.
    pub async fn destroy_items_of_org(&self, org_id: &str) -> Result<u64, SecretError> {
        Ok(self.destroy_items("org_id", org_id).await?.rows_affected())
    }

    async fn destroy_items(&self, column: &'static str, value: &str) -> Result<PgQueryResult, sqlx::Error> {
        let destroy = format!(
            "UPDATE vault.items SET key_nonce = NULL, wrapped_key = NULL, nonce = NULL, ciphertext = NULL, destroyed = now()
             WHERE {column} = $1 AND destroyed IS NULL"
        );
        sqlx::query(sqlx::AssertSqlSafe(destroy)).bind(value).execute(&self.pool).await
    }

    // Only the data keys: what they seal stays as it is.
    pub(crate) async fn wrap_items_anew(&self) -> Result<(), SecretError> {
        let select = sqlx::AssertSqlSafe(format!("{SELECT} kek_version <> $1"));
        let items: Vec<Item> = sqlx::query_as(select).bind(self.version).fetch_all(&self.pool).await?;
        for item in items {
            let key = self.item_key(&item)?;
            let (key_nonce, wrapped_key) = self.kek(self.version)?.wrap(ITEM_KEY, &item.reference, &key)?;
            let update = "UPDATE vault.items SET key_nonce = $2, wrapped_key = $3, kek_version = $4
                          WHERE ref = $1 AND kek_version = $5 AND destroyed IS NULL";
            sqlx::query(update)
                .bind(&item.reference)
                .bind(&key_nonce[..])
                .bind(wrapped_key)
                .bind(self.version)
                .bind(item.kek_version)
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }
}

/// Opens what the original kept: `<iv>:<tag>:<ciphertext>` in hexadecimal, AES-256-GCM with an IV of 16 bytes, under a
/// text that is padded with blanks, or cut, to 32 characters. `None` when text and key do not fit.
#[must_use]
pub fn open_original(stored: &str, key: &Zeroizing<String>) -> Option<Zeroizing<String>> {
    let mut parts = stored.trim().split(':').map(unhex);
    let (iv, tag, ciphertext) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || tag.len() != 16 {
        return None;
    }
    let iv: [u8; 16] = iv.try_into().ok()?;
    let padded: Zeroizing<String> = Zeroizing::new(key.chars().chain(std::iter::repeat(' ')).take(32).collect());
    let cipher = AesGcm::<Aes256, U16>::new_from_slice(padded.as_bytes()).ok()?;
    let sealed = [ciphertext, tag].concat();
    let opened = cipher.decrypt(&iv.into(), sealed.as_slice()).ok()?;
    String::from_utf8(opened).ok().map(Zeroizing::new)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() % 2 == 1 || !text.is_ascii() {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_the_original_kept_is_opened_with_its_key_alone() {
        let key = Zeroizing::new("a short key".to_owned());
        let cipher = AesGcm::<Aes256, U16>::new_from_slice(b"a short key                     ").unwrap();
        let sealed = cipher.encrypt(&[9u8; 16].into(), b"sk-secret".as_slice()).unwrap();
        let (ciphertext, tag) = sealed.split_at(sealed.len() - 16);
        let stored = format!("{}:{}:{}", hex(&[9; 16]), hex(tag), hex(ciphertext));
        assert_eq!(open_original(&stored, &key).unwrap().as_str(), "sk-secret");
        assert!(open_original(&stored, &Zeroizing::new("another".to_owned())).is_none());
        for broken in ["", "a:b", "zz:zz:zz", &stored[1..], &format!("{stored}:00")] {
            assert!(open_original(broken, &key).is_none(), "{broken}");
        }
    }
}
