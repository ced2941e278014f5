-- What a request, spoken characters and audio that is listened to cost (integrations.md §28).

ALTER TABLE prices ADD COLUMN request_micros bigint, ADD COLUMN character_micros_per_m bigint,
    ADD COLUMN audio_hour_micros bigint;
