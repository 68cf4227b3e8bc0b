-- work.sql: 50,000 rows, an index, queries.
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, price INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
INSERT INTO item SELECT i, printf('item %d of %d', i * 7919 % 50021, i % 13), i * 31 % 97, i * i % 1009 FROM n;
COMMIT;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_kind ON item (kind, price);
SELECT kind, count(*), sum(price), min(name) FROM item GROUP BY kind ORDER BY kind LIMIT 10;
SELECT count(*) FROM item a JOIN item b ON b.kind = a.kind AND b.price = a.price + 1 WHERE a.id % 5 = 0;
SELECT count(*), max(length(name)) FROM item WHERE name LIKE '%77%';
UPDATE item SET price = price + 1 WHERE kind < 40;
DELETE FROM item WHERE id % 3 = 0;
SELECT sum(price), count(*) FROM item;
SELECT name FROM item ORDER BY price DESC, name LIMIT 5;
