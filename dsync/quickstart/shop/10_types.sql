-- Schemas, types and functions that the tables need.
CREATE SCHEMA shop;
CREATE SCHEMA "Odd Names";
COMMENT ON SCHEMA shop IS 'A shop: what it sells, to whom, and what happened';
COMMENT ON SCHEMA "Odd Names" IS 'Names that have to be quoted: "capitals", spaces, dots, emoji 🐘';

CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy', 'It''s complicated', '🎉');
CREATE TYPE shop.category AS ENUM ('books', 'music', 'garden', 'toys', 'food');
CREATE TYPE shop.method AS ENUM ('card', 'transfer', 'voucher', 'cash');
COMMENT ON TYPE shop.category IS 'What a product is';

CREATE DOMAIN shop.email AS text CHECK (VALUE ~ '^[^@]+@[^@]+$');
CREATE DOMAIN shop.positive AS numeric(14,4) DEFAULT 1 CHECK (VALUE > 0);
CREATE DOMAIN shop.tags AS text[] CHECK (array_length(VALUE, 1) IS NULL OR array_length(VALUE, 1) <= 20);
COMMENT ON DOMAIN shop.email IS 'Has an @ inside';

CREATE TYPE shop.size AS (width numeric(8,2), height numeric(8,2), unit text);
CREATE TYPE shop.parcel AS (outside shop.size, fragile boolean, labels text[]);
CREATE DOMAIN shop.real_size AS shop.size CHECK ((VALUE).width IS NULL OR (VALUE).width >= 0);
CREATE TYPE shop.price_range AS RANGE (subtype = numeric, multirange_type_name = shop.price_ranges);

CREATE COLLATION shop.plain (provider = libc, locale = 'C');

CREATE SEQUENCE shop.invoice_numbers START 1000 INCREMENT 5 MAXVALUE 999999 CACHE 10;
CREATE SEQUENCE shop.countdown START -1 INCREMENT -1 MINVALUE -1000 MAXVALUE -1 CYCLE;
CREATE SEQUENCE shop.untouched AS smallint;
COMMENT ON SEQUENCE shop.invoice_numbers IS 'Moves in steps of five';

CREATE FUNCTION shop.with_tax(net numeric, rate numeric DEFAULT 0.19) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN round(net * (1 + rate), 2);
CREATE FUNCTION shop.slug(title text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $body$
BEGIN
    -- Dollars and quotes in a body: $1 isn't '$body'.
    RETURN trim(both '-' from regexp_replace(lower(title), '[^a-z0-9]+', '-', 'g'));
END
$body$;
COMMENT ON FUNCTION shop.slug(text) IS 'A title as part of an address';
