-- Lists, the outbox and the queue read small rows only: data that is injected into pages (style sheets,
-- scripts, headers, cookies) has its own table. It is read when a worker claims the cast, and deleted when
-- the cast is closed.
--
-- casts.queued_ms, queue_until_ms, lease_until_ms, outbox.next_ms and first_try_ms are in fleet time
-- (clock.rs), all other times in milliseconds since 1970.

CREATE TABLE injected (
    whose INTEGER PRIMARY KEY REFERENCES casts ON DELETE CASCADE,
    what BLOB NOT NULL
) STRICT;

ALTER TABLE casts ADD COLUMN queued_ms INTEGER NOT NULL DEFAULT 0;
-- Expected resource use, in thousandths of a cast of 1280x720 at 30 frames per second.
ALTER TABLE casts ADD COLUMN weight INTEGER NOT NULL DEFAULT 1000;
-- Bytes of the cast's BLOBs in all tables.
ALTER TABLE casts ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE casts ADD COLUMN events_dropped INTEGER NOT NULL DEFAULT 0;

UPDATE casts SET queued_ms = created_ms;

DROP INDEX casts_queued;
CREATE INDEX casts_waiting ON casts (app) WHERE state = 0;
CREATE INDEX casts_unbegun ON casts (app, queued_ms) WHERE state = 3 AND started_ms IS NULL;

ALTER TABLE tally ADD COLUMN weight INTEGER NOT NULL DEFAULT 0;

DROP TRIGGER tally_new;
DROP TRIGGER tally_moved;
DROP TRIGGER tally_gone;
CREATE TRIGGER tally_new AFTER INSERT ON casts BEGIN
    INSERT INTO tally VALUES (new.state, new.app, 1, new.weight)
    ON CONFLICT DO UPDATE SET n = n + 1, weight = weight + excluded.weight;
END;
CREATE TRIGGER tally_moved AFTER UPDATE OF state ON casts WHEN old.state <> new.state BEGIN
    UPDATE tally SET n = n - 1, weight = weight - old.weight WHERE state = old.state AND app = old.app;
    INSERT INTO tally VALUES (new.state, new.app, 1, new.weight)
    ON CONFLICT DO UPDATE SET n = n + 1, weight = weight + excluded.weight;
END;
CREATE TRIGGER tally_gone AFTER DELETE ON casts BEGIN
    UPDATE tally SET n = n - 1, weight = weight - old.weight WHERE state = old.state AND app = old.app;
END;

-- Bytes of the BLOBs of each application's casts.
CREATE TABLE kept (
    app TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER kept_new AFTER INSERT ON casts BEGIN
    INSERT INTO kept VALUES (new.app, new.bytes) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER kept_changed AFTER UPDATE OF bytes ON casts WHEN old.bytes <> new.bytes BEGIN
    INSERT INTO kept VALUES (new.app, new.bytes - old.bytes)
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER kept_gone AFTER DELETE ON casts BEGIN
    UPDATE kept SET bytes = bytes - old.bytes WHERE app = old.app;
END;
