-- Keys of authors in conversations are named `conversation:<org>:<id>><author>`; they are destroyed by conversation and by author.
CREATE INDEX secrets_by_conversation ON secrets (split_part(ref, '>', 1)) WHERE strpos(ref, '>') > 0;
CREATE INDEX secrets_by_author ON secrets (split_part(ref, '>', 2)) WHERE strpos(ref, '>') > 0;
