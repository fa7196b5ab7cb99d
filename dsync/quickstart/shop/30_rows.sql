-- Rows, from deterministic expressions over the row's number. pg_temp.roll(n, salt, sides) gives 0 … sides - 1,
-- pg_temp.share(percent) how many rows a table gets, pg_temp.placed(order) when an order was placed.
INSERT INTO shop.customers (first_name, last_name, address, mood, born, credit_limit, newsletter, signed_up,
                            last_ip, preferences)
SELECT (ARRAY['Ana','Björn','Chloé','大輔','محمد','Zoë 🎉','Dmitri','O''Brien','E"ve','Łukasz'])[1 + pg_temp.roll(g, 1, 10)],
       CASE WHEN pg_temp.roll(g, 2, 20) > 0
            THEN (ARRAY['Müller','García','Nguyễn','Smith','Øst','de la Cruz','Ng','Papadopoulos'])[1 + pg_temp.roll(g, 2, 8)] END,
       'c' || g || '@example.org',
       (ARRAY['sad','ok','happy','It''s complicated','🎉'])[1 + pg_temp.roll(g, 3, 5)]::shop.mood,
       CASE WHEN pg_temp.roll(g, 4, 10) > 0 THEN date '1940-01-01' + pg_temp.roll(g, 5, 25000)::integer END,
       (pg_temp.roll(g, 6, 1000000) / 100.0)::numeric::money,
       pg_temp.roll(g, 7, 2) = 1,
       timestamptz '2020-01-01 00:00+00' + pg_temp.roll(g, 8, 94608000) * interval '1 second',
       '10.0.0.0'::inet + pg_temp.roll(g, 9, 16777216),
       jsonb_build_object('theme', (ARRAY['dark','light'])[1 + pg_temp.roll(g, 10, 2)], 'page', pg_temp.roll(g, 11, 100))
FROM generate_series(1, pg_temp.share(6)) AS g;

INSERT INTO shop.products (sku, title, kind, price, size, tags, attributes, picture)
SELECT 'SKU' || lpad(g::text, 8, '0'),
       (ARRAY['Blue','Grand','Tiny','Old','Électrique'])[1 + pg_temp.roll(g, 20, 5)] || ' '
           || (ARRAY['piano','novel','shovel','kite','cheese 🧀'])[1 + pg_temp.roll(g, 21, 5)] || ' no. ' || g,
       (ARRAY['books','music','garden','toys','food'])[1 + pg_temp.roll(g, 22, 5)]::shop.category,
       1 + pg_temp.roll(g, 23, 100000) / 100.0,
       CASE WHEN g % 3 > 0 THEN ROW(pg_temp.roll(g, 24, 1000) / 10.0, 1, 'cm')::shop.size END,
       CASE g % 4 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['new', 'it''s "quoted"', NULL, 'a,b'] ELSE ARRAY['sale'] END,
       jsonb_build_object('colour', md5(g::text), 'weights', jsonb_build_array(g, g / 2.0, NULL)),
       CASE WHEN g % 5 = 0 THEN decode(repeat(md5(g::text), 8), 'hex') END
FROM generate_series(1, pg_temp.share(1)) AS g;

INSERT INTO shop.orders (id, placed_at, customer_id, status, total, ship_to, open_for, note)
SELECT g, pg_temp.placed(g), 1 + pg_temp.roll(g, 30, pg_temp.share(6)),
       (ARRAY['new','paid','sent','back'])[1 + pg_temp.roll(g, 31, 4)], pg_temp.roll(g, 32, 5000000) / 100.0,
       CASE WHEN g % 4 = 0 THEN point(pg_temp.roll(g, 33, 360) - 180, pg_temp.roll(g, 34, 180) - 90) END,
       pg_temp.roll(g, 35, 3000) * interval '1 minute',
       CASE WHEN g % 10 = 0 THEN E'Ring twice,\tplease\nsecond line \\N' END
FROM generate_series(1, pg_temp.share(18)) AS g;

INSERT INTO shop.order_lines (order_id, line_no, product_id, quantity, unit_price, discount)
SELECT o, g - ceil((o - 1) * pg_temp.share(45) / pg_temp.share(18)::numeric),
       1 + pg_temp.roll(g, 40, pg_temp.share(1)), 1 + pg_temp.roll(g, 41, 9), pg_temp.roll(g, 42, 99999) / 100.0,
       CASE WHEN g % 7 = 0 THEN pg_temp.roll(g, 43, 50) / 100.0 END
FROM generate_series(1, pg_temp.share(45)) AS g,
     LATERAL (SELECT (g - 1) * pg_temp.share(18) / pg_temp.share(45) + 1) AS of_order(o);

INSERT INTO shop.payments (id, order_id, placed_at, method, amount, paid_at, reference)
SELECT md5('payment ' || g)::uuid, o, pg_temp.placed(o),
       (ARRAY['card','transfer','voucher','cash'])[1 + pg_temp.roll(g, 50, 4)]::shop.method,
       pg_temp.roll(g, 51, 5000000) / 100.0,
       (pg_temp.placed(o) AT TIME ZONE 'UTC') + pg_temp.roll(g, 52, 864000) * interval '0.1 second',
       CASE WHEN g % 3 = 0 THEN 'RF' || lpad(g::text, 20, '0') END
FROM generate_series(1, pg_temp.share(15)) AS g,
     LATERAL (SELECT (g - 1) * pg_temp.share(18) / pg_temp.share(15) + 1) AS of_order(o);

INSERT INTO shop.events (customer_id, happened_at, kind, payload, raw, visitor, path)
SELECT CASE WHEN g % 9 > 0 THEN 1 + pg_temp.roll(g, 60, pg_temp.share(6)) END,
       timestamptz '2023-01-01 00:00+00' + g * interval '7.123456 second',
       (ARRAY['view','search','basket','buy'])[1 + pg_temp.roll(g, 61, 4)],
       jsonb_build_object('n', g, 'agent', 'Mozilla/5.0', 'ok', g % 2 = 0, 'ratio', pg_temp.roll(g, 62, 1000) / 7.0),
       CASE WHEN g % 6 = 0 THEN '{"spaces":  "stay", "twice": 1, "twice": 2}'::json END,
       CASE WHEN g % 2 = 0 THEN trunc_visitor::macaddr8 END,
       ARRAY['home', 'kind-' || g % 5]
FROM generate_series(1, pg_temp.share(12)) AS g,
     LATERAL (SELECT lpad(to_hex(pg_temp.roll(g, 63, 4294967296)), 16, '0')) AS visit(trunc_visitor);

INSERT INTO shop.audit_log
SELECT timestamp '2023-06-01' + (g / 3) * interval '1 second', 'user' || (g / 3) % 10,
       'did ' || (g / 3) % 4, (ARRAY['i','w','e'])[1 + (g / 3) % 3]::"char"
FROM generate_series(1, pg_temp.share(2)) AS g;

INSERT INTO shop.sessions
SELECT md5('session ' || g)::uuid, 1 + pg_temp.roll(g, 70, pg_temp.share(6)),
       time '08:00' + g % 36000 * interval '1 second',
       CASE WHEN g % 2 = 0
            THEN ARRAY[ROW(ROW(1.5, 2, 'm'), true, ARRAY['a "b"', NULL])::shop.parcel, NULL, ROW(NULL, NULL, '{}')::shop.parcel] END
FROM generate_series(1, pg_temp.share(1)) AS g;

INSERT INTO shop.contacts SELECT g, 'Contact ' || g, '+49 30 ' || g FROM generate_series(1, 50) AS g;
INSERT INTO shop.suppliers
SELECT g, 'Supplier ' || g, NULL, 'DE' || lpad(g::text, 9, '0'), g % 60 * interval '1 day'
FROM generate_series(51, 120) AS g;
INSERT INTO shop.departments SELECT g, 'Department ' || g, g * 10 FROM generate_series(1, 9) AS g;
INSERT INTO shop.staff
SELECT g, 'Staff ' || g, 1 + g % 9, CASE WHEN g > 10 THEN g / 10 END, (3000 + g)::money FROM generate_series(1, 90) AS g;
INSERT INTO shop.bookings
SELECT g, g % 5, int4range(g * 10, g * 10 + 9), tstzrange(timestamptz '2024-01-01 00:00+00' + g * interval '1 day', NULL)
FROM generate_series(1, 40) AS g;
INSERT INTO shop.tickets
SELECT g, (enum_range(NULL::shop.mood))[1 + g % 5], 'Ticket ' || g FROM generate_series(1, 60) AS g;
INSERT INTO shop.typed SELECT g, g / 3.0, 'mm' FROM generate_series(1, 20) AS g;
-- Long values: some compressed, some moved out of the row, some both.
INSERT INTO shop.documents
SELECT g, 'Document ' || g, repeat('The quick brown fox — ' || g || E' — jumps.\n', (10 ^ g)::integer * 3),
       (SELECT decode(string_agg(md5(g || ' ' || i), ''), 'hex') FROM generate_series(1, (10 ^ g)::integer) AS i),
       jsonb_build_object('long', repeat('é', (10 ^ g)::integer), 'n', g)
FROM generate_series(1, 4) AS g;
INSERT INTO shop.notes SELECT g, 'postgres', 'Note ' || g FROM generate_series(1, 10) AS g;
INSERT INTO shop.no_columns_but_rows DEFAULT VALUES;
INSERT INTO shop.no_columns_but_rows DEFAULT VALUES;

INSERT INTO "Odd Names"."select" VALUES (1, 'where', NULL, 'postgres'), (2, '', 'DESC', NULL);
INSERT INTO "Odd Names"."Order.Lines" SELECT 1 + g / 5, g % 5, 'a.' || g FROM generate_series(0, 49) AS g;
INSERT INTO "Odd Names"."say ""hi""" VALUES (1, 'it''s', E'back\\slash'), (2, '\N', '\.');
INSERT INTO "Odd Names"."emoji 🐘" VALUES (1, 'groß', '名前'), (2, '👩‍👩‍👧', NULL), (3, U&'\00e9', U&'e\0301');
INSERT INTO "Odd Names"."a%b:c*d?e/f" VALUES (1, '%(x)s', ':x', '{}');
INSERT INTO "Odd Names"."UPPER" VALUES (1, 'upper'), (2, E'tab\there');
INSERT INTO "Odd Names".upper VALUES (1, 'lower', NULL);
INSERT INTO "Odd Names".a_name_as_long_as_names_can_be_which_is_sixty_three_bytes_12345 VALUES (1);

SELECT setval('shop.invoice_numbers', 4005);
SELECT setval('shop.countdown', -17, false);
