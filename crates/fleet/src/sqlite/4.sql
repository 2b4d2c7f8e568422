-- Requests that changed something, or tried to. role is AuditRole; app is empty if there is none.
-- AUTOINCREMENT: the number of a deleted entry must not be used again.

CREATE TABLE audit (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    role INTEGER NOT NULL,
    app TEXT NOT NULL,
    entry BLOB NOT NULL
) STRICT;

CREATE INDEX audit_at ON audit (at_ms);
CREATE INDEX audit_by_app ON audit (app, n);
CREATE INDEX audit_by_owner ON audit (role, app, n);

-- What each application used on each day: days since 1970 in UTC, times in milliseconds. It outlives casts.
CREATE TABLE daily_use (
    day INTEGER NOT NULL,
    app TEXT NOT NULL,
    casts INTEGER NOT NULL,
    cast_ms INTEGER NOT NULL,
    core_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (day, app)
) STRICT, WITHOUT ROWID;
