-- A schema that breaks naive copiers. Runs on PostgreSQL 15 and later without contrib extensions.
-- Roles app_owner, app_reader and "Odd Role" exist before it runs.
CREATE SCHEMA shop AUTHORIZATION app_owner;
CREATE SCHEMA "odd.schema ""q""";
CREATE SCHEMA "select";
COMMENT ON SCHEMA shop IS 'Shop; -- not a comment
\connect nowhere';
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA shop GRANT SELECT ON TABLES TO app_reader;

-- Types -------------------------------------------------------------------------------------
CREATE TYPE shop.mood AS ENUM ('sad', 'o''k', 'ha"ppy', '😀');
COMMENT ON TYPE shop.mood IS 'mood; with ''quotes'' and "double"';
CREATE FUNCTION shop.is_positive(v numeric) RETURNS boolean
  LANGUAGE sql IMMUTABLE AS $$ SELECT v > 0 $$;
CREATE DOMAIN shop.positive AS numeric(14,4) DEFAULT 1 CHECK (shop.is_positive(VALUE)) CONSTRAINT small CHECK (VALUE < 1e9);
COMMENT ON DOMAIN shop.positive IS 'positive number';
COMMENT ON CONSTRAINT small ON DOMAIN shop.positive IS 'not that big';
CREATE TYPE shop.address AS (street text, "zip code" varchar(10), feeling shop.mood);
COMMENT ON COLUMN shop.address."zip code" IS 'zip';
CREATE FUNCTION shop.span_diff(a float8, b float8) RETURNS float8 LANGUAGE sql IMMUTABLE STRICT AS 'SELECT a - b';
CREATE TYPE shop.floatspan AS RANGE (subtype = float8, subtype_diff = shop.span_diff, multirange_type_name = shop.manyspans);
CREATE COLLATION shop.plain (provider = libc, locale = 'C');
CREATE OPERATOR shop.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq, COMMUTATOR = OPERATOR(shop.===));
CREATE FUNCTION shop.strpoint(p point) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT p::text $$;
CREATE TYPE shop.shelled;
CREATE TYPE shop.empty AS ();
CREATE AGGREGATE shop.product(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = 1);
COMMENT ON AGGREGATE shop.product(numeric) IS 'product';
CREATE CAST (shop.address AS text) WITH INOUT AS ASSIGNMENT;
CREATE TEXT SEARCH DICTIONARY shop.plain_dict (TEMPLATE = pg_catalog.simple);
CREATE TEXT SEARCH CONFIGURATION shop.plain_config (PARSER = pg_catalog."default");
ALTER TEXT SEARCH CONFIGURATION shop.plain_config ADD MAPPING FOR word WITH shop.plain_dict;

-- Functions with bodies that look like other things -------------------------------------------
CREATE FUNCTION shop.confusing(a text DEFAULT ');' , VARIADIC rest integer[] DEFAULT '{}')
 RETURNS text LANGUAGE plpgsql AS $_$
--
-- Name: fake; Type: TABLE; Schema: shop; Owner: app_owner
--
BEGIN
  EXECUTE $q$ CREATE TABLE x (); -- $$ ; $q$;
  RETURN 'PGDMP' || a; /* ALTER TABLE x OWNER TO y; */
END
$_$;
COMMENT ON FUNCTION shop.confusing(text, integer[]) IS '-- Name: fake; Type: COMMENT';
CREATE SEQUENCE shop.ticket AS integer INCREMENT BY 7 MINVALUE -10 MAXVALUE 1000 START 3 CACHE 5 CYCLE;
COMMENT ON SEQUENCE shop.ticket IS 'tickets';
CREATE FUNCTION shop.next_ticket() RETURNS text LANGUAGE sql AS $$ SELECT 'T' || nextval('shop.ticket')::text $$;
CREATE PROCEDURE shop.noop(INOUT x integer) LANGUAGE plpgsql AS $$ BEGIN x := x; END $$;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
CREATE FUNCTION shop.atomic(x integer) RETURNS integer LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT x + 1; END;

-- Tables ------------------------------------------------------------------------------------
CREATE TABLE shop.customer (
  id bigint GENERATED ALWAYS AS IDENTITY (START WITH 5 INCREMENT BY 5),
  "Full Name" text COLLATE shop.plain NOT NULL,
  "order" integer DEFAULT 3,
  mood shop.mood DEFAULT 'ha"ppy',
  address shop.address,
  balance shop.positive,
  spans shop.floatspan,
  many shop.manyspans,
  tags text[] DEFAULT ARRAY['a', 'b;c', 'd''e'],
  doc jsonb DEFAULT '{"a": "b;--"}',
  loud text GENERATED ALWAYS AS (upper("Full Name")) STORED,
  favourite bigint,
  note text,
  CONSTRAINT customer_pk PRIMARY KEY (id),
  CONSTRAINT "check; me" CHECK ("order" > 0 AND shop.is_positive("order"::numeric))
) WITH (fillfactor = 70);
ALTER TABLE shop.customer ALTER COLUMN doc SET STORAGE EXTERNAL;
ALTER TABLE shop.customer ALTER COLUMN "order" SET STATISTICS 500;
ALTER TABLE shop.customer CLUSTER ON customer_pk;
COMMENT ON TABLE shop.customer IS 'customers; "with" ''text''';
COMMENT ON COLUMN shop.customer."Full Name" IS 'the name';
COMMENT ON CONSTRAINT "check; me" ON shop.customer IS 'check';
COMMENT ON CONSTRAINT customer_pk ON shop.customer IS 'key';
CREATE UNIQUE INDEX "customer upper; idx" ON shop.customer (lower("Full Name"), "order" DESC NULLS LAST) INCLUDE (note) WHERE "order" > 1;
COMMENT ON INDEX shop."customer upper; idx" IS 'index';
CREATE INDEX customer_fn ON shop.customer (shop.atomic("order"));
CREATE STATISTICS shop.customer_stats (ndistinct, dependencies) ON "order", mood FROM shop.customer;
COMMENT ON STATISTICS shop.customer_stats IS 'stats';
CREATE STATISTICS shop.customer_expr ON (lower("Full Name")), "order" FROM shop.customer;
CREATE TABLE shop.product (
  id serial PRIMARY KEY,
  sku text NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED,
  ticket text DEFAULT shop.next_ticket(),
  champion bigint,
  price numeric(14,4) CHECK (price >= 0) NO INHERIT,
  EXCLUDE USING btree (ticket WITH =)
);
-- Circular foreign keys, one of them not valid.
ALTER TABLE shop.customer ADD CONSTRAINT fav FOREIGN KEY (favourite) REFERENCES shop.product (id) ON DELETE SET NULL;
ALTER TABLE shop.product ADD CONSTRAINT champ FOREIGN KEY (champion) REFERENCES shop.customer (id) DEFERRABLE INITIALLY DEFERRED NOT VALID;
ALTER TABLE shop.product ADD CONSTRAINT later CHECK (sku <> 'x') NOT VALID;
CREATE TABLE shop.selfref (id integer PRIMARY KEY, parent integer REFERENCES shop.selfref);
CREATE UNLOGGED TABLE shop.scratch (k text UNIQUE NULLS NOT DISTINCT, v bytea DEFAULT '\x0001');
ALTER TABLE shop.scratch ALTER COLUMN k SET NOT NULL;
ALTER TABLE shop.scratch REPLICA IDENTITY USING INDEX scratch_k_key;
CREATE TABLE shop.nothing ();
CREATE TABLE "odd.schema ""q"""."ta.ble ""x"" 😀" ("col ""umn""" integer PRIMARY KEY, "a.b" text DEFAULT 'x', "select" integer);
COMMENT ON TABLE "odd.schema ""q"""."ta.ble ""x"" 😀" IS 'odd';
COMMENT ON COLUMN "odd.schema ""q"""."ta.ble ""x"" 😀"."a.b" IS 'odd column';
CREATE TABLE "select"."table" ("user" integer REFERENCES "odd.schema ""q"""."ta.ble ""x"" 😀", "Group" text);
CREATE INDEX "in dex" ON "select"."table" ("user");
CREATE TABLE "select"."tab" ("user" integer PRIMARY KEY);
CREATE TABLE "select"."tab le" (le integer PRIMARY KEY, x integer CONSTRAINT "le tab" REFERENCES "select"."tab");
ALTER TABLE "select"."tab" ADD CONSTRAINT "le tab" CHECK ("user" > 0) NOT VALID;

-- Inheritance and partitions ------------------------------------------------------------------
CREATE TABLE shop.animal (id integer NOT NULL, name text DEFAULT 'rex', CHECK (id > 0));
CREATE TABLE shop.dog (barks boolean DEFAULT true, PRIMARY KEY (id)) INHERITS (shop.animal);
ALTER TABLE shop.dog ALTER COLUMN name SET DEFAULT 'hasso';
CREATE TABLE shop.event (
  id bigint GENERATED BY DEFAULT AS IDENTITY, at timestamptz NOT NULL, kind shop.mood NOT NULL, amount numeric,
  doubled numeric GENERATED ALWAYS AS (amount * 2) STORED,
  PRIMARY KEY (id, at, kind)
) PARTITION BY RANGE (at);
COMMENT ON TABLE shop.event IS 'partitioned';
CREATE TABLE shop.event_2024 PARTITION OF shop.event FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2025-01-01 00:00:00+00');
CREATE TABLE shop.event_2025 PARTITION OF shop.event FOR VALUES FROM ('2025-01-01 00:00:00+00') TO ('2026-01-01 00:00:00+00') PARTITION BY LIST (kind);
CREATE TABLE shop.event_2025_sad PARTITION OF shop.event_2025 FOR VALUES IN ('sad');
CREATE TABLE shop.event_2025_rest PARTITION OF shop.event_2025 DEFAULT;
CREATE TABLE shop.event_default (amount numeric, at timestamptz NOT NULL, kind shop.mood NOT NULL, id bigint NOT NULL,
  doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
ALTER TABLE shop.event ATTACH PARTITION shop.event_default DEFAULT;
CREATE INDEX event_kind ON shop.event (kind);
CREATE UNIQUE INDEX event_only_here ON shop.event_2024 (id);
ALTER TABLE shop.event_2024 ALTER COLUMN amount SET DEFAULT 4;
CREATE TABLE shop.hashed (id uuid NOT NULL DEFAULT gen_random_uuid(), v text) PARTITION BY HASH (id);
CREATE TABLE shop.hashed_0 PARTITION OF shop.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE shop.hashed_1 PARTITION OF shop.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
ALTER TABLE shop.hashed_1 REPLICA IDENTITY FULL;
CREATE TABLE shop.event_note (event_id bigint, event_at timestamptz, event_kind shop.mood, note text,
  FOREIGN KEY (event_id, event_at, event_kind) REFERENCES shop.event (id, at, kind));

-- Views, materialised views, rules --------------------------------------------------------------
CREATE VIEW shop.v1 AS SELECT id, "Full Name" AS name, mood FROM shop.customer WHERE "order" > 0;
CREATE VIEW shop.v2 WITH (security_barrier) AS
  SELECT v1.*, product.sku FROM shop.v1 LEFT JOIN shop.product ON product.champion = v1.id;
CREATE VIEW shop.v3 AS SELECT id, note FROM shop.customer WHERE id < 10 WITH LOCAL CHECK OPTION;
ALTER VIEW shop.v3 ALTER COLUMN note SET DEFAULT 'from the view';
COMMENT ON VIEW shop.v2 IS 'view on view';
COMMENT ON COLUMN shop.v2.sku IS 'view column';
-- A view that needs the primary key (functional dependency), so pg_dump splits it in two.
CREATE VIEW shop.grouped AS SELECT c.id, c."Full Name", count(p.id) FROM shop.customer c
  LEFT JOIN shop.product p ON p.champion = c.id GROUP BY c.id;
CREATE MATERIALIZED VIEW shop.m1 AS SELECT mood, count(*) AS n FROM shop.v1 GROUP BY mood;
CREATE MATERIALIZED VIEW shop.a_m2 AS SELECT sum(n) AS total FROM shop.m1;
CREATE MATERIALIZED VIEW shop.m_grouped AS SELECT c.id, c.note FROM shop.customer c JOIN shop.product p ON true GROUP BY c.id;
CREATE MATERIALIZED VIEW shop.unpopulated AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX m1_mood ON shop.m1 (mood);
COMMENT ON MATERIALIZED VIEW shop.m1 IS 'matview';
CREATE RULE "no; delete" AS ON DELETE TO shop.product DO INSTEAD NOTHING;
COMMENT ON RULE "no; delete" ON shop.product IS 'rule';
ALTER TABLE shop.product DISABLE RULE "no; delete";
CREATE RULE v3_ins AS ON INSERT TO shop.v3 DO INSTEAD INSERT INTO shop.customer ("Full Name", note) VALUES ('TO s.t', NEW.note);
CREATE FUNCTION shop.by_row(c shop.customer) RETURNS text LANGUAGE sql STABLE AS $$ SELECT c.note $$;
CREATE FUNCTION shop.on_a_view() RETURNS SETOF shop.v2 LANGUAGE sql STABLE AS $$ SELECT * FROM shop.v2 $$;

-- Triggers, policies, event triggers --------------------------------------------------------------
CREATE TRIGGER "touch; it" BEFORE INSERT OR UPDATE OF "order", note ON shop.customer
  FOR EACH ROW WHEN (NEW.note IS DISTINCT FROM 'ON x.y') EXECUTE FUNCTION shop.touch('arg; ON a.b');
COMMENT ON TRIGGER "touch; it" ON shop.customer IS 'trigger';
CREATE TRIGGER off BEFORE DELETE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.customer DISABLE TRIGGER off;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON shop.product DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.product ENABLE ALWAYS TRIGGER deferred;
CREATE TRIGGER on_parts BEFORE UPDATE ON shop.event FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE TRIGGER viewed INSTEAD OF INSERT ON shop.v2 FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY "see; own" ON shop.customer FOR SELECT TO app_reader, "Odd Role" USING (note = current_user);
CREATE POLICY strict ON shop.customer AS RESTRICTIVE USING (EXISTS (SELECT 1 FROM shop.product WHERE champion = customer.id));
COMMENT ON POLICY "see; own" ON shop.customer IS 'policy';
ALTER TABLE shop.selfref ENABLE ROW LEVEL SECURITY;
ALTER TABLE shop.selfref FORCE ROW LEVEL SECURITY;

-- Rarer things ------------------------------------------------------------------------------------
ALTER DOMAIN shop.positive ADD CONSTRAINT later CHECK (VALUE < 1e8) NOT VALID;
CREATE TYPE shop.row_type AS (id integer, name text);
CREATE TABLE shop.typed OF shop.row_type (PRIMARY KEY (id), name WITH OPTIONS DEFAULT 'typed');
CREATE TABLE shop.swimmer (id integer NOT NULL, fins integer DEFAULT 2, CHECK (fins > 0));
CREATE TABLE shop.otter (fur text) INHERITS (shop.animal, shop.swimmer) WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE shop.scratch_numbers (id integer GENERATED ALWAYS AS IDENTITY, v text COMPRESSION pglz);
ALTER TABLE shop.scratch_numbers REPLICA IDENTITY NOTHING;
CREATE INDEX ON shop.scratch_numbers USING hash (v) WITH (fillfactor = 60);
CREATE INDEX scratch_expr ON shop.scratch_numbers ((v || 'x') text_pattern_ops) ;
ALTER INDEX shop.scratch_expr ALTER COLUMN 1 SET STATISTICS 77;
CREATE TABLE shop.part_ref (id integer, at date, parent integer, parent_at date, PRIMARY KEY (id, at),
  FOREIGN KEY (parent, parent_at) REFERENCES shop.part_ref ON DELETE SET NULL (parent)) PARTITION BY RANGE (at);
CREATE TABLE shop.part_ref_1 PARTITION OF shop.part_ref FOR VALUES FROM (MINVALUE) TO ('2024-01-01') WITH (fillfactor = 50);
CREATE TABLE shop.part_ref_2 PARTITION OF shop.part_ref FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
CREATE UNIQUE INDEX part_ref_unfinished ON ONLY shop.part_ref (parent, at);
ALTER TABLE shop.part_ref_1 CLUSTER ON part_ref_1_pkey;
CREATE TABLE shop.by_mood (mood shop.mood NOT NULL, v integer) PARTITION BY HASH (mood, shop.atomic(v));
CREATE TABLE shop.by_mood_0 PARTITION OF shop.by_mood FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE VIEW shop.invoker WITH (security_invoker, check_option = cascaded) AS SELECT * FROM shop.typed;
CREATE RECURSIVE VIEW shop.counting (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM counting WHERE n < 5;
CREATE TRIGGER told AFTER UPDATE ON shop.typed REFERENCING OLD TABLE AS "old ON x.y" NEW TABLE AS new
  FOR EACH STATEMENT EXECUTE FUNCTION shop.touch();
-- Needs the primary key, so pg_dump creates it after the data.
CREATE FUNCTION shop.after_the_key() RETURNS bigint LANGUAGE sql
  BEGIN ATOMIC SELECT count(*) FROM (SELECT c.id, c.note FROM shop.customer c GROUP BY c.id) AS grouped; END;
COMMENT ON FUNCTION shop.after_the_key() IS 'postponed';
REVOKE ALL ON FUNCTION shop.after_the_key() FROM PUBLIC;
COMMENT ON MATERIALIZED VIEW shop.m_grouped IS 'postponed too';
GRANT SELECT ON shop.m_grouped TO app_reader;
ALTER MATERIALIZED VIEW shop.m_grouped OWNER TO app_owner;
CREATE INDEX m_grouped_note ON shop.m_grouped (note);
CREATE VIEW shop.over_grouped AS SELECT id FROM shop.grouped;
CREATE FUNCTION shop.of_grouped(g shop.grouped) RETURNS bigint LANGUAGE sql AS $$ SELECT g.id $$;
CREATE CONVERSION shop.to_latin FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1;
CREATE OPERATOR shop.<<< (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4lt, RESTRICT = scalarltsel);
CREATE TABLE public.in_public (id integer PRIMARY KEY, loves integer REFERENCES shop.selfref MATCH FULL ON UPDATE CASCADE);

-- Owners and privileges ----------------------------------------------------------------------------
ALTER TABLE shop.customer OWNER TO app_owner;
ALTER TABLE shop.product OWNER TO app_owner;
ALTER TABLE shop.nothing OWNER TO "Odd Role";
ALTER FUNCTION shop.confusing(text, integer[]) OWNER TO app_owner;
ALTER TYPE shop.mood OWNER TO app_owner;
ALTER AGGREGATE shop.product(numeric) OWNER TO app_owner;
GRANT USAGE ON SCHEMA shop TO app_reader, "Odd Role";
GRANT SELECT ON shop.customer TO app_reader WITH GRANT OPTION;
GRANT UPDATE (note, "Full Name") ON shop.customer TO "Odd Role";
GRANT SELECT ON "select"."table" TO PUBLIC;
SET ROLE app_reader;
GRANT SELECT ON shop.customer TO "Odd Role";
RESET ROLE;
REVOKE ALL ON FUNCTION shop.touch() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION shop.touch() TO app_owner, app_reader;
REVOKE ALL ON TYPE shop.address FROM PUBLIC;
GRANT USAGE ON TYPE shop.address TO app_reader;
GRANT USAGE ON SEQUENCE shop.ticket TO "Odd Role";
REVOKE DELETE ON shop.selfref FROM postgres;

COMMENT ON SCHEMA public IS 'everybody''s';
GRANT CREATE ON SCHEMA public TO app_reader;

-- Rows and positions -------------------------------------------------------------------------------
INSERT INTO shop.customer ("Full Name", note) VALUES ('a', 'x'), ('b', 'y');
SELECT setval('shop.ticket', 17, true);
SELECT setval('shop.product_id_seq', 41, false);
REFRESH MATERIALIZED VIEW shop.m1;
