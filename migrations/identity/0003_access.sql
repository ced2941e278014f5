-- What decides whether a credential still counts.

-- What a principal's sessions must be younger than.
CREATE TABLE session_cutoffs (
    principal_id text PRIMARY KEY,
    org_id       text NOT NULL,
    before       timestamptz NOT NULL
);
CREATE POLICY reader ON session_cutoffs FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR principal_id = symbia.actor());

CREATE TABLE signing_keys (
    kid             text PRIMARY KEY,
    org_id          text NOT NULL,
    alg             text NOT NULL,
    public_x        text NOT NULL,
    private_key_ref text NOT NULL,
    not_before      timestamptz NOT NULL,
    retired_at      timestamptz,
    verify_until    timestamptz
);
CREATE POLICY reader ON signing_keys FOR SELECT TO symbia_reader USING (symbia.bypass());
