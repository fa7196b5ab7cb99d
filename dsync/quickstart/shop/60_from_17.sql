-- Only since PostgreSQL 17.
INSERT INTO shop.every_type (about, an_interval, intervals)
VALUES ('endless intervals', 'infinity', '{-infinity,NULL,infinity}');
