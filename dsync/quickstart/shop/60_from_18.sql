-- Only since PostgreSQL 18.
ALTER TABLE shop.products ADD COLUMN title_length integer GENERATED ALWAYS AS (length(title)) VIRTUAL;
ALTER TABLE shop.documents ADD CONSTRAINT body_is_there NOT NULL body NOT VALID;
ALTER TABLE shop.notes ADD CONSTRAINT has_author CHECK (author <> '') NOT ENFORCED;
