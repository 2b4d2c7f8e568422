-- Times are milliseconds since 1970. Values of type BLOB are sealed (vault.rs).
-- States: 0 queued, 1 starting, 2 live, 3 ended.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE casts (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    app TEXT NOT NULL,
    origin TEXT NOT NULL,
    key TEXT,
    key_until_ms INTEGER, -- NULL: until the cast has ended
    held INTEGER NOT NULL, -- whether the cast holds its key, so that no other can
    notify INTEGER NOT NULL,
    request BLOB NOT NULL,
    spec BLOB NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    reason BLOB,
    queue_until_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    live_ms INTEGER,
    ended_ms INTEGER,
    stop_asked INTEGER NOT NULL DEFAULT 0,
    closed INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until_ms INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 0,
    report BLOB,
    last_seq INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX casts_held ON casts (key) WHERE held = 1;
CREATE INDEX casts_key ON casts (key) WHERE key IS NOT NULL;
CREATE INDEX casts_queued ON casts (n) WHERE state = 0;
CREATE INDEX casts_overdue ON casts (queue_until_ms) WHERE state = 0;
CREATE INDEX casts_begun ON casts (lease_until_ms, n) WHERE closed = 0 AND state > 0;
CREATE INDEX casts_past ON casts (ended_ms) WHERE closed = 1;
CREATE INDEX casts_by_state ON casts (state, created_ms, id, origin);
CREATE INDEX casts_by_app ON casts (app, state, created_ms, id, origin);

-- Number of casts by state and application, maintained by triggers.
CREATE TABLE tally (
    state INTEGER NOT NULL,
    app TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (state, app)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tally_new AFTER INSERT ON casts BEGIN
    INSERT INTO tally VALUES (new.state, new.app, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER tally_moved AFTER UPDATE OF state ON casts WHEN old.state <> new.state BEGIN
    UPDATE tally SET n = n - 1 WHERE state = old.state AND app = old.app;
    INSERT INTO tally VALUES (new.state, new.app, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER tally_gone AFTER DELETE ON casts BEGIN
    UPDATE tally SET n = n - 1 WHERE state = old.state AND app = old.app;
END;

CREATE TABLE events (
    whose INTEGER NOT NULL REFERENCES casts ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    what BLOB NOT NULL,
    PRIMARY KEY (whose, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    whose INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    next_ms INTEGER, -- NULL: behind an earlier event, or given up
    tries INTEGER NOT NULL DEFAULT 0,
    first_try_ms INTEGER,
    parts_done INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (whose, seq),
    FOREIGN KEY (whose, seq) REFERENCES events ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_due ON outbox (next_ms, whose) WHERE next_ms IS NOT NULL;
CREATE INDEX outbox_waiting ON outbox (at_ms) WHERE given_up = 0;
CREATE INDEX outbox_given_up ON outbox (whose) WHERE given_up = 1;

CREATE TABLE attempts (
    n INTEGER PRIMARY KEY,
    whose INTEGER NOT NULL REFERENCES casts ON DELETE CASCADE,
    attempt BLOB NOT NULL
) STRICT;

CREATE INDEX attempts_of ON attempts (whose);

-- AUTOINCREMENT: the number of an acknowledged command must not be used again.
CREATE TABLE commands (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    whose INTEGER NOT NULL REFERENCES casts ON DELETE CASCADE,
    command BLOB NOT NULL
) STRICT;

CREATE INDEX commands_of ON commands (whose);

CREATE TABLE documents (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
