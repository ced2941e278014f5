-- Files that were given to the gateway or made by it, and batches of requests that stand in them (integrations.md §28). Names
-- and metadata are sealed; what is in the files is kept beside the log.

CREATE TABLE stored_files (
    org_id     text NOT NULL,
    id         text NOT NULL,
    purpose    text NOT NULL,
    filename   jsonb NOT NULL,
    bytes      bigint NOT NULL,
    owner      text NOT NULL,
    batch_id   text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX stored_files_by_owner ON stored_files (org_id, owner, created_at, id);
CREATE POLICY reader ON stored_files FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE batches (
    org_id            text NOT NULL,
    id                text NOT NULL,
    endpoint          text NOT NULL,
    input_file_id     text NOT NULL,
    completion_window text NOT NULL,
    status            text NOT NULL,
    metadata          jsonb,
    errors            jsonb,
    output_file_id    text,
    error_file_id     text,
    lines             bigint NOT NULL,
    succeeded         bigint NOT NULL,
    failed            bigint NOT NULL,
    created_by        text NOT NULL,
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz,
    in_progress_at    timestamptz,
    finalizing_at     timestamptz,
    cancelling_at     timestamptz,
    ended_at          timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX batches_by_owner ON batches (org_id, created_by, created_at, id);
CREATE INDEX batches_under_way ON batches (org_id) WHERE ended_at IS NULL;
CREATE POLICY reader ON batches FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
