-- Only where the server was built with libxml.
ALTER TABLE shop.every_type ADD COLUMN an_xml xml, ADD COLUMN xmls xml[];
UPDATE shop.every_type
SET an_xml = xmlparse(DOCUMENT '<?xml version="1.0"?><a b="ü">text &amp; <!-- x --><![CDATA[<raw>]]></a>'),
    xmls = ARRAY[xmlparse(CONTENT 'only text 🐘'), NULL]
WHERE about <> 'nothing but nulls';
