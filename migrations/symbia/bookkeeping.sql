-- In every projection's schema, so that a rebuild brings its own and a swap exchanges them with the data.

-- How far each event stream is folded. The row changes in the transaction that folds.
CREATE TABLE checkpoint (
    service    text PRIMARY KEY,
    sequence   bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE POLICY reader ON checkpoint FOR SELECT TO symbia_reader USING (true);

-- What could not be verified or folded, kept for the operator. version is the event's aggregate version, 0 = the whole message.
CREATE TABLE quarantine (
    service     text NOT NULL,
    sequence    bigint NOT NULL,
    version     bigint NOT NULL,
    subject     text NOT NULL,
    reason      text NOT NULL,
    payload     bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service, sequence, version)
);
CREATE POLICY reader ON quarantine FOR SELECT TO symbia_reader USING (symbia.bypass());
