-- What needs contrib modules, superuser or both, on top of nasty.sql.
CREATE SCHEMA ext;
CREATE EXTENSION citext WITH SCHEMA ext;
CREATE EXTENSION btree_gist WITH SCHEMA ext;
CREATE EXTENSION postgres_fdw WITH SCHEMA ext;
COMMENT ON EXTENSION citext IS 'our own words about citext';
CREATE TABLE shop.person (id integer PRIMARY KEY, email ext.citext UNIQUE, room integer, during tstzrange,
  EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid', dbname 'x');
CREATE USER MAPPING FOR app_owner SERVER elsewhere OPTIONS (user 'u', password 'mapped-secret-canary');
CREATE FOREIGN TABLE shop.remote (id integer, name text DEFAULT 'x') SERVER elsewhere OPTIONS (table_name 'y');
CREATE FUNCTION shop.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no DDL here'; END $$;
CREATE FUNCTION shop.native(text) RETURNS integer LANGUAGE internal IMMUTABLE STRICT AS 'textlen';
CREATE INDEX person_native ON shop.person (shop.native(email::text));
CREATE FUNCTION shop.quiet(integer) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true';
CREATE OPERATOR CLASS shop.my_ops FOR TYPE integer USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
  OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(integer, integer);
CREATE EVENT TRIGGER watcher ON ddl_command_start EXECUTE FUNCTION shop.watch();
