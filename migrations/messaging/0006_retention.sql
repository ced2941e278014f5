-- Days without a word after which what was said in a conversation is erased; null: never.

ALTER TABLE conversations ADD COLUMN retention_days int;
