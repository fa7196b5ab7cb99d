-- Kinds of objects that nasty.sql leaves out, as an owner of a server makes them. Runs on PostgreSQL 15 and later without
-- contrib extensions, after nasty.sql and with its roles.
CREATE SCHEMA every AUTHORIZATION app_owner;
SET search_path = pg_catalog;

-- Types ------------------------------------------------------------------------------------------
CREATE TYPE every.pair AS (x integer, y text);
ALTER TYPE every.pair ADD ATTRIBUTE z numeric(6,2);
ALTER TYPE every.pair DROP ATTRIBUTE x;
ALTER TYPE every.pair ADD ATTRIBUTE x bigint;
CREATE DOMAIN every.checked_pair AS every.pair CHECK ((VALUE).x > 0);
CREATE DOMAIN every.pairs AS every.checked_pair[] CHECK (cardinality(VALUE) < 10);
CREATE DOMAIN every.c_text AS text COLLATE "C" DEFAULT 'x' NOT NULL;
CREATE DOMAIN every.short AS every.c_text CONSTRAINT "at; most" CHECK (length(VALUE) < 9);
CREATE DOMAIN every.even AS integer CHECK (VALUE % 2 = 0);
CREATE TYPE every.evens AS RANGE (subtype = every.even);
CREATE TYPE every.texts AS RANGE (subtype = text, collation = "C");
CREATE TYPE every.mood AS ENUM ('b', 'd');
ALTER TYPE every.mood ADD VALUE 'a' BEFORE 'b';
ALTER TYPE every.mood ADD VALUE 'c' AFTER 'b';
CREATE TYPE every.vec;
CREATE FUNCTION every.vec_in(cstring) RETURNS every.vec LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION every.vec_out(every.vec) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE every.vec (INPUT = every.vec_in, OUTPUT = every.vec_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (every.vec AS text) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION every.mood_number(every.mood) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT length($1::text)';
CREATE CAST (every.mood AS integer) WITH FUNCTION every.mood_number(every.mood) AS ASSIGNMENT;
COMMENT ON CAST (every.mood AS integer) IS 'a cast';
CREATE TRANSFORM FOR integer LANGUAGE sql
  (FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal));

-- Functions, operators, their families -------------------------------------------------------------
CREATE FUNCTION every.settled(a integer, b text DEFAULT 'it''s', OUT c integer, OUT d text) RETURNS SETOF record
  LANGUAGE plpgsql STABLE SECURITY DEFINER COST 7 ROWS 33 PARALLEL SAFE SET search_path = every, pg_temp SET work_mem = '5MB'
  AS $$ BEGIN RETURN NEXT; END $$;
CREATE FUNCTION every.tabled(VARIADIC anyarray) RETURNS TABLE (n bigint, t every.checked_pair) LANGUAGE sql STABLE
  AS $$ SELECT 1::bigint, ROW('y', 1, 2)::every.checked_pair $$;
CREATE FUNCTION every.cmp(every.vec, every.vec) RETURNS integer LANGUAGE internal IMMUTABLE STRICT AS 'bttextcmp';
CREATE FUNCTION every.lt(every.vec, every.vec) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'text_lt';
CREATE FUNCTION every.le(every.vec, every.vec) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'text_le';
CREATE FUNCTION every.eq(every.vec, every.vec) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'texteq';
CREATE FUNCTION every.ge(every.vec, every.vec) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'text_ge';
CREATE FUNCTION every.gt(every.vec, every.vec) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'text_gt';
CREATE OPERATOR every.< (LEFTARG = every.vec, RIGHTARG = every.vec, FUNCTION = every.lt, COMMUTATOR = OPERATOR(every.>),
  NEGATOR = OPERATOR(every.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR every.<= (LEFTARG = every.vec, RIGHTARG = every.vec, FUNCTION = every.le, COMMUTATOR = OPERATOR(every.>=));
CREATE OPERATOR every.= (LEFTARG = every.vec, RIGHTARG = every.vec, FUNCTION = every.eq, COMMUTATOR = OPERATOR(every.=),
  HASHES, MERGES, RESTRICT = eqsel, JOIN = eqjoinsel);
CREATE OPERATOR every.>= (LEFTARG = every.vec, RIGHTARG = every.vec, FUNCTION = every.ge, NEGATOR = OPERATOR(every.<));
CREATE OPERATOR every.> (LEFTARG = every.vec, RIGHTARG = every.vec, FUNCTION = every.gt, COMMUTATOR = OPERATOR(every.<));
COMMENT ON OPERATOR every.= (every.vec, every.vec) IS 'equal; enough';
CREATE OPERATOR FAMILY every.vecs USING btree;
CREATE OPERATOR CLASS every.vec_ops DEFAULT FOR TYPE every.vec USING btree FAMILY every.vecs AS
  OPERATOR 1 every.<, OPERATOR 2 every.<=, OPERATOR 3 every.=, OPERATOR 4 every.>=, OPERATOR 5 every.>,
  FUNCTION 1 every.cmp(every.vec, every.vec);
COMMENT ON OPERATOR CLASS every.vec_ops USING btree IS 'a class';
CREATE AGGREGATE every.longest(ORDER BY text) (SFUNC = text_larger, STYPE = text, FINALFUNC = upper, FINALFUNC_MODIFY = read_only);
CREATE AGGREGATE every.summed(numeric) (SFUNC = numeric_add, STYPE = numeric, COMBINEFUNC = numeric_add, PARALLEL = safe,
  MSFUNC = numeric_add, MINVFUNC = numeric_sub, MSTYPE = numeric);
CREATE PROCEDURE every.clean(INOUT a integer, OUT b text) LANGUAGE plpgsql AS $$ BEGIN b := a::text; COMMIT; END $$;

-- Text search and collations ------------------------------------------------------------------------
CREATE COLLATION every."c; x" (provider = libc, lc_collate = 'C', lc_ctype = 'C');
COMMENT ON COLLATION every."c; x" IS 'a collation';
CREATE TEXT SEARCH TEMPLATE every.tmpl (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH PARSER every.prs (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
CREATE TEXT SEARCH DICTIONARY every.dict (TEMPLATE = every.tmpl, accept = false);
CREATE TEXT SEARCH CONFIGURATION every.conf (PARSER = every.prs);
ALTER TEXT SEARCH CONFIGURATION every.conf ADD MAPPING FOR asciiword, word WITH every.dict, pg_catalog.english_stem;
COMMENT ON TEXT SEARCH CONFIGURATION every.conf IS 'a configuration';

-- Tables -------------------------------------------------------------------------------------------
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE ACCESS METHOD gist2 TYPE INDEX HANDLER gisthandler;
CREATE OPERATOR CLASS every.box_ops DEFAULT FOR TYPE box USING gist2 AS OPERATOR 1 <<, OPERATOR 3 &&,
  FUNCTION 1 gist_box_consistent(internal, box, smallint, oid, internal), FUNCTION 2 gist_box_union(internal, internal),
  FUNCTION 5 gist_box_penalty(internal, internal, internal), FUNCTION 6 gist_box_picksplit(internal, internal),
  FUNCTION 7 gist_box_same(box, box, internal);
CREATE SEQUENCE every."num; bers" AS smallint START WITH -5 MINVALUE -100 MAXVALUE 100 INCREMENT BY -1 CYCLE;
CREATE UNLOGGED SEQUENCE every.unlogged_numbers;
CREATE TABLE every.mixed (
  id bigint GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME every."id of; mixed" MINVALUE -50 START -7 MAXVALUE 500000 CACHE 3 CYCLE) PRIMARY KEY,
  gone integer,
  p every.checked_pair,
  ps every.pairs,
  s every.short,
  e every.evens,
  t every.texts,
  v every.vec,
  m every.mood DEFAULT 'd',
  words tsvector GENERATED ALWAYS AS (to_tsvector('english', coalesce("long", ''))) STORED,
  number smallint DEFAULT nextval('every."num; bers"'),
  "long" text COMPRESSION pglz,
  r int4range,
  b box,
  at timestamptz(3) DEFAULT CURRENT_TIMESTAMP(3),
  CONSTRAINT r_apart EXCLUDE USING gist (r WITH &&) WHERE (r IS NOT NULL) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT b_apart EXCLUDE USING gist (b WITH &&) WITH (fillfactor = 80),
  CONSTRAINT number_once UNIQUE (number) INCLUDE (m) DEFERRABLE
) WITH (autovacuum_vacuum_threshold = 77, toast.autovacuum_enabled = false, parallel_workers = 3, user_catalog_table = true);
ALTER TABLE every.mixed DROP COLUMN gone;
ALTER TABLE every.mixed ADD CONSTRAINT checked CHECK (every.mood_number(m) > 0) NOT VALID;
ALTER TABLE every.mixed ALTER COLUMN m SET (n_distinct = -0.5, n_distinct_inherited = 4);
ALTER SEQUENCE every."num; bers" OWNED BY every.mixed.number;
CREATE INDEX v_index ON every.mixed (v DESC, m);
CREATE INDEX words_index ON every.mixed USING gin (words) WITH (fastupdate = off);
CREATE INDEX at_index ON every.mixed USING brin (at) WITH (pages_per_range = 16);
CREATE INDEX r_index ON every.mixed USING spgist (r);
CREATE INDEX b_index ON every.mixed USING gist2 (b);
CREATE UNIQUE INDEX distinct_index ON every.mixed (s COLLATE every."c; x" text_pattern_ops, "long") NULLS NOT DISTINCT WHERE m > 'b'::every.mood;
CREATE STATISTICS every.mixed_stats (mcv, ndistinct) ON m, number, (upper("long")) FROM every.mixed;
ALTER STATISTICS every.mixed_stats SET STATISTICS 333;
CREATE TABLE every.elsewhere (id integer, note text) USING heap2;
CREATE TABLE every.weekday (n integer PRIMARY KEY CHECK (n BETWEEN 1 AND 7), name text);
CREATE TABLE every.no_columns ();
CREATE TABLE every."öffnungszeiten_mit_einem_sehr_langen_namen_der_63_bytes_hat_"
  ("spalte_mit_einem_sehr_langen_namen_und_ümläuten_63_bytes_lang_" integer PRIMARY KEY, "NULL" text NOT NULL DEFAULT 'NULL');

CREATE TABLE every.parent (id integer, note text DEFAULT 'p', CONSTRAINT own CHECK (id > 0) NO INHERIT, CONSTRAINT "both" CHECK (id < 9999));
CREATE TABLE every.child (extra integer, note text, id integer);
ALTER TABLE every.child ADD CONSTRAINT "both" CHECK (id < 9999);
ALTER TABLE every.child INHERIT every.parent;
CREATE TABLE every.grandchild (id integer DEFAULT 5) INHERITS (every.child, every.parent);
ALTER TABLE every.parent ADD COLUMN added integer DEFAULT 3;
CREATE TABLE every.orphan (LIKE every.mixed INCLUDING ALL EXCLUDING IDENTITY);

CREATE TABLE every.root (id bigint NOT NULL, part text COLLATE "C", amount numeric DEFAULT 0) PARTITION BY RANGE (part, (id % 10));
CREATE TABLE every.root_a (amount numeric, junk integer, part text COLLATE "C", id bigint NOT NULL);
ALTER TABLE every.root_a DROP COLUMN junk;
ALTER TABLE every.root_a ADD CONSTRAINT root_a_key PRIMARY KEY (id);
ALTER TABLE every.root ATTACH PARTITION every.root_a FOR VALUES FROM ('a', MINVALUE) TO ('m', MAXVALUE);
CREATE TABLE every.root_z PARTITION OF every.root (CONSTRAINT small CHECK (amount < 1e6)) FOR VALUES FROM ('m', MAXVALUE) TO (MAXVALUE, MAXVALUE)
  PARTITION BY HASH (id);
CREATE UNLOGGED TABLE every.root_z0 PARTITION OF every.root_z FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE every.root_z1 PARTITION OF every.root_z FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE every.root_z2 PARTITION OF every.root_z FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE TABLE every.detached PARTITION OF every.root DEFAULT;
ALTER TABLE every.root DETACH PARTITION every.detached;
CREATE INDEX root_amount ON every.root (amount);
CREATE TABLE every.childless (id integer) PARTITION BY LIST (id);
CREATE FUNCTION every.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER stamped BEFORE INSERT ON every.root FOR EACH ROW EXECUTE FUNCTION every.stamp();
ALTER TABLE every.root_z1 DISABLE TRIGGER stamped;
CREATE TRIGGER truncated BEFORE TRUNCATE ON every.mixed EXECUTE FUNCTION every.stamp();
ALTER TABLE every.mixed ENABLE REPLICA TRIGGER truncated;

-- Views, rules, policies -----------------------------------------------------------------------------
CREATE FUNCTION every.moods() RETURNS SETOF every.mixed LANGUAGE sql STABLE AS 'SELECT * FROM every.mixed';
CREATE VIEW every.on_function AS SELECT f.id, f.m, f.p FROM every.moods() f;
CREATE VIEW every.on_view (a, b) WITH (security_barrier = true) AS SELECT id, (p).x FROM every.on_function;
CREATE VIEW every.whole_row AS SELECT mixed AS row_of, mixed.* FROM every.mixed;
CREATE MATERIALIZED VIEW every.on_views AS SELECT a, count(*) AS n FROM every.on_view GROUP BY a;
CREATE MATERIALIZED VIEW every.aside USING heap2 AS SELECT * FROM every.on_views WITH NO DATA;
CREATE INDEX on_views_a ON every.on_views (a);
CREATE FUNCTION every.of_view() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM every.on_view; END;
CREATE VIEW every.on_atomic AS SELECT every.of_view() AS n;
CREATE VIEW every.first_of_two AS SELECT 1 AS n, NULL::text AS t;
CREATE VIEW every.second_of_two AS SELECT * FROM every.first_of_two;
CREATE OR REPLACE VIEW every.first_of_two AS SELECT 2 AS n, 'x' AS t;
CREATE TABLE every.log (line text, at timestamptz);
CREATE RULE "also; log" AS ON UPDATE TO every.mixed WHERE (old.m <> new.m) DO ALSO
  (INSERT INTO every.log VALUES ('changed; ' || old.id, now()); DELETE FROM every.log WHERE line = 'x;');
CREATE RULE told AS ON INSERT TO every.log DO ALSO NOTIFY changed;
CREATE RULE removed AS ON DELETE TO every.on_view DO INSTEAD NOTHING;
ALTER TABLE every.mixed ENABLE ALWAYS RULE "also; log";
ALTER TABLE every.log ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON every.log USING (true) WITH CHECK (line <> 'x');
CREATE POLICY inserts ON every.log FOR INSERT TO app_owner WITH CHECK (EXISTS (SELECT FROM every.on_view));
CREATE POLICY updates ON every.log AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (at > now() - interval '1 day');
CREATE POLICY deletes ON every.log FOR DELETE TO CURRENT_USER USING (false);

-- Foreign keys ---------------------------------------------------------------------------------------
CREATE TABLE every.key (a integer, b integer, c text, PRIMARY KEY (a, b), UNIQUE (c) DEFERRABLE);
CREATE TABLE every.points (a integer, b integer, c text, note text,
  FOREIGN KEY (a, b) REFERENCES every.key ON UPDATE CASCADE ON DELETE SET DEFAULT DEFERRABLE INITIALLY IMMEDIATE,
  CONSTRAINT "to; c" FOREIGN KEY (b, a) REFERENCES every.key (a, b) MATCH FULL NOT VALID);
ALTER TABLE every.root ADD CONSTRAINT to_day FOREIGN KEY (id) REFERENCES every.mixed ON DELETE CASCADE;
ALTER TABLE every.mixed ADD COLUMN day integer REFERENCES every.weekday NOT NULL DEFAULT 1;
CREATE TABLE every.holder (m every.mixed, ms every.mixed[], of_view shop.v1);
INSERT INTO every.weekday VALUES (1, 'Mon'), (2, 'Tue');

-- Foreign tables, publications, event triggers ----------------------------------------------
CREATE FOREIGN DATA WRAPPER nothing OPTIONS (a 'b;c');
CREATE SERVER "some; where" TYPE 't' VERSION '1' FOREIGN DATA WRAPPER nothing OPTIONS (host 'x');
COMMENT ON SERVER "some; where" IS 'a server';
CREATE USER MAPPING FOR PUBLIC SERVER "some; where" OPTIONS (password 'mapped-secret-canary');
CREATE USER MAPPING FOR app_owner SERVER "some; where" OPTIONS (password 'mapped-secret-canary');
CREATE FOREIGN TABLE every.far (id integer OPTIONS (name 'ID') NOT NULL, at date DEFAULT now(), CONSTRAINT plus CHECK (id > 0))
  SERVER "some; where" OPTIONS (name 'y''z');
CREATE VIEW every.over_far AS SELECT id FROM every.far;
GRANT USAGE ON FOREIGN DATA WRAPPER nothing TO app_owner;
GRANT USAGE ON FOREIGN SERVER "some; where" TO app_reader WITH GRANT OPTION;
CREATE PUBLICATION some_tables FOR TABLE every.log, ONLY every.parent WITH (publish = 'insert');
CREATE PUBLICATION all_tables FOR ALL TABLES;
CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA every, TABLE shop.product WHERE (id > 3) WITH (publish_via_partition_root);
CREATE FUNCTION every.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE DEBUG '%', tg_tag; END $$;
CREATE EVENT TRIGGER started ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'DROP TABLE') EXECUTE FUNCTION every.on_ddl();
CREATE EVENT TRIGGER ended ON ddl_command_end EXECUTE FUNCTION every.on_ddl();
CREATE EVENT TRIGGER dropped ON sql_drop EXECUTE FUNCTION every.on_ddl();
ALTER EVENT TRIGGER dropped DISABLE;
ALTER EVENT TRIGGER ended ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER ended IS 'an event trigger';

-- Owners, privileges, rows -----------------------------------------------------------------------------
ALTER TABLE every.mixed OWNER TO app_owner;
GRANT SELECT ON every.on_view TO app_owner;
ALTER MATERIALIZED VIEW every.on_views OWNER TO app_owner;
ALTER OPERATOR CLASS every.vec_ops USING btree OWNER TO app_owner;
ALTER EVENT TRIGGER started OWNER TO postgres;
GRANT SELECT (id, m), REFERENCES (id) ON every.mixed TO app_reader;
GRANT ALL ON every.weekday TO PUBLIC;
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO app_reader, app_owner;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) TO app_reader;
GRANT SELECT ON pg_catalog.pg_authid TO app_reader;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT USAGE ON TYPES TO "Odd Role";
INSERT INTO every.mixed (p, ps, s, e, t, v, m, "long", r, b) VALUES
  (ROW('y', 1.5, 3), ARRAY[ROW('z', 2, 4)::every.checked_pair]::every.pairs, 'short', '[2,6]', '[a,b)', 'vec', 'd', 'some words', '[1,3)', '((0,0),(1,1))'),
  (NULL, NULL, 'other', 'empty', NULL, 'vec2', 'b', NULL, '[5,9)', '((5,5),(6,6))');
INSERT INTO every.root (id, part) SELECT id, 'k' FROM every.mixed LIMIT 1;
INSERT INTO every.parent VALUES (1, 'one');
INSERT INTO every.child VALUES (1, 'two', 2);
INSERT INTO every.holder SELECT x, ARRAY[x], NULL FROM every.mixed x LIMIT 1;
INSERT INTO every.elsewhere VALUES (1, 'elsewhere');
SELECT setval('every.unlogged_numbers', 88);
REFRESH MATERIALIZED VIEW every.on_views;
REVOKE INSERT ON every.mixed FROM app_owner;
