//! Reading the directory. Row-level security says which entries a scope sees.

use sqlx::{PgConnection, types::Json};

use super::entities::{Entity, EntityAlias, EntityInstance};

/// What an address names (identity.md §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// `ent_…`.
    Id(&'a str),
    /// `slug#instance`.
    Instance(&'a str, &'a str),
    /// `type:slug`.
    Typed(&'a str, &'a str),
    /// A name.
    Name(&'a str),
}

impl<'a> Address<'a> {
    /// Reads an address, with or without `@`.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let text = text.strip_prefix('@').unwrap_or(text);
        if text.starts_with("ent_") {
            return Address::Id(text);
        }
        if let Some((slug, instance)) = text.split_once('#') {
            return Address::Instance(slug, instance);
        }
        match text.split_once(':') {
            Some((kind, slug)) => Address::Typed(kind, slug),
            None => Address::Name(text),
        }
    }
}

fn plain<T>(rows: Vec<Json<T>>) -> Vec<T> {
    rows.into_iter().map(|Json(row)| row).collect()
}

/// An entity by its id.
pub async fn entity(conn: &mut PgConnection, id: &str) -> Result<Option<Entity>, sqlx::Error> {
    let select = "SELECT to_jsonb(e) FROM identity.entities e WHERE id = $1";
    let found: Option<Json<Entity>> = sqlx::query_scalar(select).bind(id).fetch_optional(conn).await?;
    Ok(found.map(|Json(entity)| entity))
}

/// The entity that lives on a node.
pub async fn entity_on(conn: &mut PgConnection, node_id: &str) -> Result<Option<Entity>, sqlx::Error> {
    let select = "SELECT to_jsonb(e) FROM identity.entities e WHERE bound_node_id = $1 ORDER BY bound_at DESC LIMIT 1";
    let found: Option<Json<Entity>> = sqlx::query_scalar(select).bind(node_id).fetch_optional(conn).await?;
    Ok(found.map(|Json(entity)| entity))
}

/// Which entities to list.
#[derive(Clone, Debug, Default)]
pub struct EntityFilter {
    /// Only those of this kind.
    pub entity_type: Option<String>,
    /// Only those of this organization.
    pub org_id: Option<String>,
    /// Only those with this slug.
    pub slug: Option<String>,
    /// Only those of this standing.
    pub status: Option<String>,
}

/// Entities that the scope may see, the oldest first, 500 at most.
pub async fn entities(conn: &mut PgConnection, filter: &EntityFilter) -> Result<Vec<Entity>, sqlx::Error> {
    let rows = sqlx::query_scalar(
        "SELECT to_jsonb(e) FROM identity.entities e
         WHERE ($1::text IS NULL OR entity_type = $1) AND ($2::text IS NULL OR org_id = $2)
           AND ($3::text IS NULL OR slug = $3) AND ($4::text IS NULL OR status = $4)
         ORDER BY created_at, id LIMIT 500",
    )
    .bind(&filter.entity_type)
    .bind(&filter.org_id)
    .bind(&filter.slug)
    .bind(&filter.status)
    .fetch_all(conn)
    .await?;
    Ok(plain(rows))
}

/// What an address leads to, among what the scope may see: of the organization first, then by the alias' priority and the
/// index of the instance. Suspended ones are left out unless they are asked for.
pub async fn resolve(
    conn: &mut PgConnection,
    address: Address<'_>,
    org: Option<&str>,
    suspended: bool,
) -> Result<Vec<Entity>, sqlx::Error> {
    let (how, first, second) = match address {
        Address::Id(id) => ("id", id, ""),
        Address::Instance(slug, instance) => ("instance", slug, instance),
        Address::Typed(kind, slug) => ("typed", kind, slug),
        Address::Name(name) => ("name", name, ""),
    };
    let rows = sqlx::query_scalar(
        "SELECT to_jsonb(e) FROM identity.entities e
         LEFT JOIN LATERAL (SELECT max(priority) AS priority FROM identity.entity_aliases a
                            WHERE a.entity_id = e.id AND a.alias_value = CASE WHEN $1 = 'typed' THEN $2 || ':' || $3
                                                                              ELSE $2 END) named ON true
         WHERE (status <> 'suspended' OR $5)
           AND ($1 = 'id' OR $4::text IS NULL OR org_id = $4 OR (org_id = 'global' AND $1 <> 'instance'))
           AND CASE $1 WHEN 'id' THEN id = $2
                       WHEN 'instance' THEN slug = $2 AND instance_id = $3
                       WHEN 'typed' THEN (entity_type = $2 AND slug = $3) OR named.priority IS NOT NULL
                       ELSE slug = $2 OR named.priority IS NOT NULL END
         ORDER BY (org_id IS NOT DISTINCT FROM $4) DESC, coalesce(named.priority, -1001) DESC, instance_index, id LIMIT 50",
    )
    .bind(how)
    .bind(first)
    .bind(second)
    .bind(org)
    .bind(suspended)
    .fetch_all(conn)
    .await?;
    Ok(plain(rows))
}

/// Slugs that contain a text, five at most.
pub async fn similar_slugs(conn: &mut PgConnection, text: &str, org: Option<&str>) -> Result<Vec<String>, sqlx::Error> {
    // No pattern: what the text contains means nothing but itself.
    sqlx::query_scalar(
        "SELECT DISTINCT slug FROM identity.entities
         WHERE status <> 'suspended' AND ($2::text IS NULL OR org_id IN ($2, 'global'))
           AND ($1 <> '' AND (strpos(slug, $1) > 0 OR strpos($1, slug) > 0
                              OR (length($1) > 2 AND strpos(slug, left($1, length($1) - 1)) > 0)))
         ORDER BY slug LIMIT 5",
    )
    .bind(text)
    .bind(org)
    .fetch_all(conn)
    .await
}

/// The names of an entity, the most important first.
pub async fn entity_aliases(conn: &mut PgConnection, entity_id: &str) -> Result<Vec<EntityAlias>, sqlx::Error> {
    let select = "SELECT to_jsonb(a) FROM identity.entity_aliases a WHERE entity_id = $1 ORDER BY priority DESC, id";
    Ok(plain(sqlx::query_scalar(select).bind(entity_id).fetch_all(conn).await?))
}

/// The instances of an entity.
pub async fn entity_instances(conn: &mut PgConnection, entity_id: &str) -> Result<Vec<EntityInstance>, sqlx::Error> {
    let select = "SELECT to_jsonb(i) FROM identity.entity_instances i WHERE entity_id = $1 ORDER BY instance_index, id";
    Ok(plain(sqlx::query_scalar(select).bind(entity_id).fetch_all(conn).await?))
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn the_forms_of_an_address_are_told_apart_in_order() {
        for (text, address) in [
            ("@billing", Address::Name("billing")),
            ("ent_1#2:x", Address::Id("ent_1#2:x")),
            ("assistant:billing#2", Address::Instance("assistant:billing", "2")),
            ("billing#2", Address::Instance("billing", "2")),
            ("assistant:billing:x", Address::Typed("assistant", "billing:x")),
        ] {
            assert_eq!(Address::of(text), address, "{text}");
        }
    }
}
