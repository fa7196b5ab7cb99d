-- What PostgreSQL 18 brought, on top of nasty.sql.
CREATE TABLE shop.modern (
  id integer PRIMARY KEY,
  twice integer GENERATED ALWAYS AS (id * 2) VIRTUAL,
  named integer CONSTRAINT "must; be" NOT NULL,
  lonely integer NOT NULL NO INHERIT,
  during tstzrange NOT NULL,
  enforced boolean,
  CONSTRAINT lenient CHECK (id > 0) NOT ENFORCED,
  CONSTRAINT expression CHECK (NOT enforced)
);
ALTER TABLE shop.modern ADD COLUMN later integer;
ALTER TABLE shop.modern ADD CONSTRAINT unchecked NOT NULL later NOT VALID;
-- Ranges as the plain part of the key, since integers would need btree_gist.
CREATE TABLE shop.booked (rooms int4range, during tstzrange, PRIMARY KEY (rooms, during WITHOUT OVERLAPS));
CREATE TABLE shop.visit (rooms int4range, during tstzrange,
  FOREIGN KEY (rooms, PERIOD during) REFERENCES shop.booked (rooms, PERIOD during));
CREATE TABLE shop.loose (id integer, FOREIGN KEY (id) REFERENCES shop.modern (id) NOT ENFORCED);
