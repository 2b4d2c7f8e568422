-- Requests that changed something, or tried to. role is AuditRole; app is empty if there is none.
CREATE TABLE audit (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL, -- wall
    role smallint NOT NULL,
    app text COLLATE "C" NOT NULL,
    content bytea NOT NULL
);
CREATE INDEX audit_at ON audit (at_ms);
CREATE INDEX audit_by_app ON audit (app, n);
CREATE INDEX audit_by_owner ON audit (role, app, n);

-- What each application used on each day: days since 1970 in UTC, times in milliseconds. It outlives casts.
CREATE TABLE daily_use (
    day bigint NOT NULL,
    app text COLLATE "C" NOT NULL,
    casts bigint NOT NULL,
    cast_ms bigint NOT NULL,
    core_ms bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (day, app)
);
