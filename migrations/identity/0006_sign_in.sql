-- How an account is guarded, beside its password. Only what is guarded has a row.
CREATE TABLE user_security (
    user_id        text PRIMARY KEY,
    org_id         text NOT NULL,
    email_verified boolean NOT NULL DEFAULT false,
    pending_email  text,
    pending_until  timestamptz,
    locked_at      timestamptz,
    locked_until   timestamptz,
    lock_reason    text,
    mfa_secret_ref text,
    mfa_confirmed  boolean NOT NULL DEFAULT false,
    recovery_left  int NOT NULL DEFAULT 0
);
CREATE POLICY reader ON user_security FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR user_id = symbia.actor());

-- Identifiers under which nobody signs in for a while, whether they belong to an account or not.
CREATE TABLE sign_in_blocks (
    identifier_key text PRIMARY KEY,
    org_id         text NOT NULL,
    until          timestamptz NOT NULL
);
CREATE POLICY reader ON sign_in_blocks FOR SELECT TO symbia_reader USING (symbia.bypass());
