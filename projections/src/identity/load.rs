//! Which rows a batch touches, and loading them.

use std::collections::BTreeSet;

use sqlx::{FromRow, PgConnection, postgres::PgRow};
use symbia_events::identity::{OrganizationEvent, UserEvent};

use super::{
    fold::Change,
    state::{MembershipRow, OrganizationRow, Rows, SessionRow, State, UserRow},
};
use crate::FoldEvent;

/// Ids of rows, and of those whose dependants go with them.
#[derive(Default)]
pub(super) struct Touched<'a> {
    users: BTreeSet<&'a str>,
    organizations: BTreeSet<&'a str>,
    memberships: BTreeSet<&'a str>,
    sessions: BTreeSet<&'a str>,
    deleted_users: BTreeSet<&'a str>,
    deleted_organizations: BTreeSet<&'a str>,
}

impl<'a> Touched<'a> {
    pub(super) fn by(events: &'a [FoldEvent], changes: &'a [Change]) -> Self {
        let mut touched = Touched::default();
        for (event, change) in events.iter().zip(changes) {
            let id = event.event.aggregateid.as_str();
            match change {
                Change::User(change) => {
                    touched.users.insert(id);
                    if matches!(change, UserEvent::UserDeleted(_)) {
                        touched.deleted_users.insert(id);
                    }
                }
                Change::Organization(change) => {
                    touched.organizations.insert(id);
                    match change {
                        OrganizationEvent::MemberAdded(e) => _ = touched.memberships.insert(&e.membership_id),
                        OrganizationEvent::MemberRoleChanged(e) => _ = touched.memberships.insert(&e.membership_id),
                        OrganizationEvent::MemberRemoved(e) => _ = touched.memberships.insert(&e.membership_id),
                        OrganizationEvent::OrganizationDeleted(_) => _ = touched.deleted_organizations.insert(id),
                        _ => {}
                    }
                }
                Change::Session(_) => _ = touched.sessions.insert(id),
                Change::SigningKeys(_) | Change::SignIn(_) | Change::Other => {}
            }
        }
        touched
    }

    pub(super) async fn load(self, conn: &mut PgConnection) -> Result<State, sqlx::Error> {
        let none = BTreeSet::new();
        let mut state = State::default();
        if !self.users.is_empty() {
            let select = "SELECT * FROM users WHERE id = ANY($1)";
            let rows = rows::<UserRow>(conn, select, [&self.users, &none, &none]).await?;
            state.users = keyed(rows, |row| &row.id);
        }
        if !self.organizations.is_empty() {
            let select = "SELECT * FROM organizations WHERE id = ANY($1)";
            let rows = rows::<OrganizationRow>(conn, select, [&self.organizations, &none, &none]).await?;
            state.organizations = keyed(rows, |row| &row.id);
        }
        if !(self.memberships.is_empty() && self.deleted_organizations.is_empty() && self.deleted_users.is_empty()) {
            let select = "SELECT * FROM memberships WHERE id = ANY($1) OR org_id = ANY($2) OR user_id = ANY($3)";
            let ids = [&self.memberships, &self.deleted_organizations, &self.deleted_users];
            let rows = rows::<MembershipRow>(conn, select, ids).await?;
            state.memberships = keyed(rows, |row| &row.id);
        }
        if !(self.sessions.is_empty() && self.deleted_users.is_empty()) {
            let select = "SELECT * FROM sessions WHERE id = ANY($1) OR principal_id = ANY($2)";
            let rows = rows::<SessionRow>(conn, select, [&self.sessions, &self.deleted_users, &none]).await?;
            state.sessions = keyed(rows, |row| &row.id);
        }
        Ok(state)
    }
}

async fn rows<T>(
    conn: &mut PgConnection,
    select: &'static str,
    ids: [&BTreeSet<&str>; 3],
) -> Result<Vec<T>, sqlx::Error>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let parameters = select.matches('$').count();
    let mut query = sqlx::query_as(select);
    for ids in ids.into_iter().take(parameters) {
        query = query.bind(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<String>>());
    }
    query.fetch_all(conn).await
}

fn keyed<T>(rows: Vec<T>, id: impl Fn(&T) -> &String) -> Rows<T> {
    rows.into_iter().map(|row| (id(&row).clone(), Some(row))).collect()
}
