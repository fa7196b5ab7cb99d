-- Only since PostgreSQL 15.
ALTER TABLE shop.contacts ADD CONSTRAINT one_phone UNIQUE NULLS NOT DISTINCT (phone);
CREATE VIEW shop.my_notes WITH (security_invoker) AS SELECT * FROM shop.notes;
ALTER TABLE shop.every_type ADD COLUMN a_rounded_numeric numeric(5,-2), ADD COLUMN a_tiny_numeric numeric(3,5);
UPDATE shop.every_type SET a_rounded_numeric = 1234567, a_tiny_numeric = 0.00123 WHERE about <> 'nothing but nulls';
