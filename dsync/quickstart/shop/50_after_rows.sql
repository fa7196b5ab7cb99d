-- What is built once the rows are there: keys, indexes, constraints, views, functions, triggers, policies.
ALTER TABLE shop.customers ADD PRIMARY KEY (id);
ALTER TABLE shop.customers ADD CONSTRAINT one_account_per_address UNIQUE (address) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE shop.products ADD PRIMARY KEY (id);
ALTER TABLE shop.products ADD UNIQUE (sku) INCLUDE (title);
ALTER TABLE shop.products CLUSTER ON products_pkey;
ALTER TABLE shop.orders ADD CONSTRAINT "Orders PK" PRIMARY KEY (id, placed_at);
ALTER TABLE shop.orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES shop.customers;
ALTER TABLE shop.order_lines ADD PRIMARY KEY (order_id, line_no);
ALTER TABLE shop.order_lines ADD FOREIGN KEY (product_id) REFERENCES shop.products ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE shop.payments ADD PRIMARY KEY (id, method);
ALTER TABLE shop.payments ADD FOREIGN KEY (order_id, placed_at) REFERENCES shop.orders (id, placed_at);
ALTER TABLE shop.events ADD PRIMARY KEY (id);
ALTER TABLE shop.events ADD CONSTRAINT known_kind CHECK (kind IN ('view', 'search', 'basket', 'buy')) NOT VALID;
ALTER TABLE shop.events ADD CONSTRAINT customer_some_day FOREIGN KEY (customer_id) REFERENCES shop.customers NOT VALID;
ALTER TABLE shop.sessions ADD PRIMARY KEY (token);
ALTER TABLE shop.contacts ADD PRIMARY KEY (id);
ALTER TABLE shop.contacts ADD CONSTRAINT has_name CHECK (name <> '') NO INHERIT;
ALTER TABLE shop.suppliers ADD PRIMARY KEY (id);
ALTER TABLE shop.departments ADD PRIMARY KEY (id);
ALTER TABLE shop.staff ADD PRIMARY KEY (id);
ALTER TABLE shop.staff ADD FOREIGN KEY (department) REFERENCES shop.departments;
ALTER TABLE shop.staff ADD FOREIGN KEY (manager) REFERENCES shop.staff ON DELETE SET NULL;
ALTER TABLE shop.departments ADD FOREIGN KEY (head) REFERENCES shop.staff DEFERRABLE;
ALTER TABLE shop.bookings ADD PRIMARY KEY (id);
ALTER TABLE shop.documents ADD PRIMARY KEY (id);
ALTER TABLE shop.notes ADD PRIMARY KEY (id);
ALTER TABLE shop.empty ADD PRIMARY KEY (id);
ALTER TABLE "Odd Names"."select" ADD PRIMARY KEY ("from");
ALTER TABLE "Odd Names"."Order.Lines" ADD CONSTRAINT "the.key" PRIMARY KEY ("Line No", "Order.Id");
ALTER TABLE "Odd Names"."say ""hi""" ADD PRIMARY KEY ("the ""key""");
ALTER TABLE "Odd Names"."emoji 🐘" ADD PRIMARY KEY ("🔑");
ALTER TABLE "Odd Names"."a%b:c*d?e/f" ADD PRIMARY KEY ("100%");
ALTER TABLE "Odd Names"."UPPER" ADD UNIQUE ("ID");
ALTER TABLE "Odd Names".upper ADD PRIMARY KEY ("id");

ALTER TABLE "Odd Names"."UPPER" REPLICA IDENTITY FULL;
ALTER TABLE shop.audit_log REPLICA IDENTITY FULL;
ALTER TABLE shop.no_columns_but_rows REPLICA IDENTITY NOTHING;
CREATE UNIQUE INDEX products_by_sku ON shop.products (sku);
ALTER TABLE shop.products REPLICA IDENTITY USING INDEX products_by_sku;

CREATE INDEX customers_by_name ON shop.customers (lower(first_name) text_pattern_ops, last_name DESC NULLS LAST);
CREATE INDEX readers_of_the_newsletter ON shop.customers USING hash (address) WHERE newsletter;
CREATE INDEX products_search ON shop.products USING gin (search) WITH (fastupdate = off);
CREATE INDEX products_attributes ON shop.products USING gin (attributes jsonb_path_ops);
CREATE INDEX orders_by_customer ON shop.orders (customer_id, placed_at DESC);
CREATE INDEX orders_by_place ON shop.orders_2023 USING gist (ship_to);
CREATE INDEX events_by_time ON shop.events USING brin (happened_at) WITH (pages_per_range = 32);
CREATE INDEX events_by_customer ON shop.events (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX bookings_during ON shop.bookings USING spgist (during);
CREATE INDEX "Odd.Index" ON "Odd Names"."Order.Lines" ((upper("a.b.c")));
COMMENT ON INDEX shop.events_by_time IS 'Small, since events come in order';

CREATE STATISTICS shop.orders_of_customers (ndistinct, dependencies) ON customer_id, status FROM shop.orders_2023;
CREATE STATISTICS shop.customers_months ON (date_trunc('month', born::timestamp)) FROM shop.customers;
COMMENT ON STATISTICS shop.customers_months IS 'Birthdays are not spread evenly';

CREATE VIEW shop.order_totals AS
    SELECT o.id, o.placed_at, c.full_name, o.total, shop.with_tax(o.total) AS gross
    FROM shop.orders o JOIN shop.customers c ON c.id = o.customer_id;
CREATE VIEW shop.large_orders WITH (security_barrier) AS
    SELECT * FROM shop.order_totals WHERE gross > 10000;
CREATE VIEW shop.paid_orders AS
    SELECT id, placed_at, customer_id, status, total FROM shop.orders_2023 WHERE status = 'paid' WITH LOCAL CHECK OPTION;
CREATE VIEW "Odd Names"."view ""of"" 🐘" ("A b", "c.d") AS SELECT "🔑", "größe" FROM "Odd Names"."emoji 🐘";
CREATE RECURSIVE VIEW shop.chain (id, name, depth) AS
    SELECT id, name, 0 FROM shop.staff WHERE manager IS NULL
    UNION ALL SELECT s.id, s.name, c.depth + 1 FROM shop.staff s JOIN chain c ON s.manager = c.id;
COMMENT ON VIEW shop.order_totals IS 'With the customer''s name and tax';
COMMENT ON COLUMN shop.order_totals.gross IS 'Nineteen per cent more';

CREATE MATERIALIZED VIEW shop.sales_by_kind AS
    SELECT p.kind, count(*) AS lines, sum(l.line_total) AS turnover
    FROM shop.order_lines l JOIN shop.products p ON p.id = l.product_id GROUP BY p.kind;
CREATE UNIQUE INDEX sales_by_kind_key ON shop.sales_by_kind (kind);
CREATE MATERIALIZED VIEW shop.not_yet AS SELECT kind, turnover FROM shop.sales_by_kind WITH NO DATA;

CREATE FUNCTION shop.orders_of(bigint) RETURNS SETOF shop.orders LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT * FROM shop.orders WHERE customer_id = $1; END;
CREATE PROCEDURE shop.forget_sessions(older_than interval DEFAULT '1 day') LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM shop.sessions WHERE started < LOCALTIME - older_than;
END $$;
CREATE AGGREGATE shop.product_of(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');
CREATE OPERATOR shop.%% (leftarg = numeric, rightarg = numeric, function = shop.with_tax);
CREATE CAST (shop.size AS text) WITH INOUT;
CREATE TEXT SEARCH CONFIGURATION shop.plain_english (COPY = pg_catalog.english);
COMMENT ON AGGREGATE shop.product_of(numeric) IS 'Multiplies';

-- Fires for writers, not during a copy: the log would grow, and the row's own time would change.
CREATE FUNCTION shop.log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.audit_log VALUES (clock_timestamp(), current_user, TG_OP || ' ' || TG_TABLE_NAME, 'i');
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE TRIGGER log_products AFTER INSERT OR UPDATE OF price OR DELETE ON shop.products
    FOR EACH ROW EXECUTE FUNCTION shop.log_change();
CREATE TRIGGER "Log.Orders" BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.log_change();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shop.staff DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION shop.log_change();
CREATE TRIGGER switched_off BEFORE TRUNCATE ON shop.events FOR EACH STATEMENT EXECUTE FUNCTION shop.log_change();
ALTER TABLE shop.events DISABLE TRIGGER switched_off;
CREATE TRIGGER always BEFORE UPDATE ON shop.notes FOR EACH ROW EXECUTE FUNCTION shop.log_change();
ALTER TABLE shop.notes ENABLE ALWAYS TRIGGER always;
COMMENT ON TRIGGER log_products ON shop.products IS 'Prices are watched';

CREATE RULE no_new_totals AS ON INSERT TO shop.order_totals DO INSTEAD NOTHING;
CREATE RULE keep_departments AS ON DELETE TO shop.departments WHERE OLD.id = 1 DO INSTEAD NOTHING;

CREATE POLICY own_notes ON shop.notes FOR SELECT USING (author = current_user);
CREATE POLICY nobody_deletes ON shop.documents AS RESTRICTIVE FOR DELETE TO PUBLIC USING (false);
COMMENT ON POLICY own_notes ON shop.notes IS 'Everybody reads their own';

ALTER TABLE shop.events ALTER COLUMN id SET DEFAULT nextval('shop.events_id_seq');
ALTER TABLE shop.products ALTER COLUMN id RESTART WITH 5000000;
ALTER SEQUENCE shop.untouched OWNED BY shop.empty.id;
ALTER TABLE shop.empty ALTER COLUMN id SET DEFAULT nextval('shop.untouched');

GRANT USAGE ON SCHEMA shop TO PUBLIC;
GRANT SELECT ON shop.products, shop.sales_by_kind TO PUBLIC;
GRANT SELECT (id, first_name), UPDATE (mood) ON shop.customers TO pg_monitor WITH GRANT OPTION;
REVOKE EXECUTE ON PROCEDURE shop.forget_sessions(interval) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO pg_read_all_data;
