-- Times are milliseconds: "wall" times since 1970, "fleet" times by the clock of the fleet (clock.rs).
-- Values of type bytea are sealed (vault.rs). States: 0 queued, 1 starting, 2 live, 3 ended.

-- Wall time: the database's clock, never that of a node.
CREATE FUNCTION wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint';

CREATE TABLE meta (
    name text PRIMARY KEY,
    value bytea NOT NULL
);

-- One row. Fleet time is wall_ms() + offset_ms.
CREATE TABLE clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    offset_ms bigint NOT NULL,
    seen_ms bigint NOT NULL, -- wall time at the last check
    swept_offset_ms bigint NOT NULL, -- offset_ms at the last sweep
    trusted_from_ms bigint NOT NULL -- fleet time from which old casts may be deleted
) WITH (fillfactor = 10);

INSERT INTO clock (offset_ms, seen_ms, swept_offset_ms, trusted_from_ms) VALUES (0, wall_ms(), 0, 0);
-- Otherwise the planner expects a thousand rows, and compiles each statement with it for 100 ms (JIT).
ANALYZE clock;

-- Transactions that were committed lately. A caller that lost the connection during a commit looks here.
CREATE TABLE committed (
    nonce bytea PRIMARY KEY,
    at_ms bigint NOT NULL -- fleet
);
CREATE INDEX committed_at ON committed (at_ms);

CREATE TABLE casts (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    app text COLLATE "C" NOT NULL,
    api text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    key_until_ms bigint, -- wall; NULL: until the cast has ended
    held boolean NOT NULL, -- whether the cast holds its key, so that no other can
    notify boolean NOT NULL,
    request bytea NOT NULL,
    spec bytea NOT NULL,
    state smallint NOT NULL DEFAULT 0,
    ending bytea,
    queue_until_ms bigint NOT NULL, -- fleet
    queued_ms bigint NOT NULL, -- fleet
    created_ms bigint NOT NULL, -- wall
    started_ms bigint, -- wall
    live_ms bigint, -- wall
    ended_ms bigint, -- wall
    stop_requested boolean NOT NULL DEFAULT false,
    closed boolean NOT NULL DEFAULT false,
    worker text COLLATE "C",
    epoch bigint NOT NULL DEFAULT 0,
    nonce bigint NOT NULL DEFAULT 0,
    report bytea,
    last_seq bigint NOT NULL,
    events_dropped bigint NOT NULL DEFAULT 0,
    -- Expected resource use, in thousandths of a cast of 1280x720 at 30 frames per second.
    weight bigint NOT NULL,
    -- Labels that the cast asks for: sorted, each once, with commas in between (queue.rs).
    labels text COLLATE "C" NOT NULL,
    -- Bytes of the cast's sealed values in all tables.
    bytes bigint NOT NULL
);

CREATE UNIQUE INDEX casts_held ON casts (key) WHERE held;
CREATE INDEX casts_key ON casts (key, n) WHERE key IS NOT NULL;
CREATE INDEX casts_waiting ON casts (app, labels, n) WHERE state = 0;
CREATE INDEX casts_overdue ON casts (queue_until_ms) WHERE state = 0;
CREATE INDEX casts_owned ON casts (worker) WHERE worker IS NOT NULL;
CREATE INDEX casts_past ON casts (ended_ms) WHERE closed;
CREATE INDEX casts_by_state ON casts (state, created_ms, id);
CREATE INDEX casts_by_app ON casts (app, state, created_ms, id);
CREATE INDEX casts_unstarted ON casts (app, queued_ms) WHERE state = 3 AND started_ms IS NULL;

-- Data that is injected into pages. It is read when a worker claims the cast, and deleted when it is closed.
CREATE TABLE injected (
    cast_n bigint PRIMARY KEY REFERENCES casts ON DELETE CASCADE,
    content bytea NOT NULL
);

-- Ledger of each recording until its cast is closed. kind and number are LedgerRow::key.
CREATE TABLE ledger (
    cast_n bigint NOT NULL REFERENCES casts ON DELETE CASCADE,
    kind bigint NOT NULL,
    number bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (cast_n, kind, number)
);

-- Started casts that are not closed. Rows are narrow and no index has a column that renewals change, so that
-- renewals stay within the page (HOT).
CREATE TABLE leases (
    id text COLLATE "C" PRIMARY KEY REFERENCES casts (id) ON DELETE CASCADE,
    worker text COLLATE "C", -- NULL: free
    epoch bigint NOT NULL,
    nonce bigint NOT NULL,
    until_ms bigint NOT NULL, -- fleet
    labels text COLLATE "C" NOT NULL -- of the cast
) WITH (fillfactor = 50);

-- What each application has, kept by triggers. Whoever creates a cast locks the row.
CREATE TABLE tallies (
    app text COLLATE "C" PRIMARY KEY,
    queued bigint NOT NULL DEFAULT 0,
    starting bigint NOT NULL DEFAULT 0,
    live bigint NOT NULL DEFAULT 0,
    ended bigint NOT NULL DEFAULT 0,
    running_weight bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- OLD is null for an INSERT, NEW for a DELETE.
CREATE FUNCTION tally_cast() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tallies SET
        queued = queued + coalesce((NEW.state = 0)::integer, 0) - coalesce((OLD.state = 0)::integer, 0),
        starting = starting + coalesce((NEW.state = 1)::integer, 0) - coalesce((OLD.state = 1)::integer, 0),
        live = live + coalesce((NEW.state = 2)::integer, 0) - coalesce((OLD.state = 2)::integer, 0),
        ended = ended + coalesce((NEW.state = 3)::integer, 0) - coalesce((OLD.state = 3)::integer, 0),
        running_weight = running_weight
            + CASE WHEN NEW.state IN (1, 2) THEN NEW.weight ELSE 0 END
            - CASE WHEN OLD.state IN (1, 2) THEN OLD.weight ELSE 0 END,
        bytes = bytes + coalesce(NEW.bytes, 0) - coalesce(OLD.bytes, 0)
    WHERE app = coalesce(NEW.app, OLD.app);
    RETURN NULL;
END;
$$;

CREATE TRIGGER tally_new AFTER INSERT OR DELETE ON casts FOR EACH ROW EXECUTE FUNCTION tally_cast();
CREATE TRIGGER tally_changed AFTER UPDATE OF state, bytes ON casts FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.bytes <> NEW.bytes) EXECUTE FUNCTION tally_cast();

-- A partition a month; old ones are dropped when they are empty.
CREATE TABLE events (
    cast_n bigint NOT NULL,
    seq bigint NOT NULL,
    at_ms bigint NOT NULL, -- wall
    content bytea NOT NULL,
    PRIMARY KEY (cast_n, seq, at_ms)
) PARTITION BY RANGE (at_ms);
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- Creates the partitions of this month and the next, and drops empty ones from before the retention.
CREATE FUNCTION maintain_event_partitions(retention_ms bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_utc timestamp := to_timestamp(wall_ms() / 1000.0) AT TIME ZONE 'UTC';
    oldest text := 'events_' || to_char(now_utc - retention_ms * interval '1 millisecond', 'YYYY_MM');
    month timestamp;
    name text;
    from_ms bigint;
    to_ms bigint;
    is_empty boolean;
BEGIN
    FOR ahead IN 0..1 LOOP
        month := date_trunc('month', now_utc) + make_interval(months => ahead);
        name := 'events_' || to_char(month, 'YYYY_MM');
        from_ms := extract(epoch FROM month) * 1000;
        to_ms := extract(epoch FROM month + interval '1 month') * 1000;
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        -- The partition of a month that has events elsewhere, after a jump of the clock, cannot be created.
        CONTINUE WHEN EXISTS (SELECT 1 FROM events_default WHERE at_ms >= from_ms AND at_ms < to_ms);
        EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%s) TO (%s)',
                       name, from_ms, to_ms);
    END LOOP;
    FOR name IN SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                WHERE inhparent = 'events'::regclass AND relname ~ '^events_[0-9]{4}_[0-9]{2}$'
                  AND relname < oldest
    LOOP
        EXECUTE format('SELECT NOT EXISTS (SELECT 1 FROM %I)', name) INTO is_empty;
        IF is_empty THEN
            EXECUTE format('DROP TABLE %I', name);
        END IF;
    END LOOP;
END;
$$;

CREATE TABLE outbox (
    cast_n bigint NOT NULL REFERENCES casts ON DELETE CASCADE,
    seq bigint NOT NULL,
    at_ms bigint NOT NULL, -- wall
    next_ms bigint, -- fleet; NULL: behind an earlier event, or given up
    tries bigint NOT NULL DEFAULT 0,
    first_try_ms bigint, -- fleet
    parts_done bigint NOT NULL DEFAULT 0,
    given_up boolean NOT NULL DEFAULT false,
    -- Node that delivers the event, and the fleet time until which no other node may.
    claimed_by text COLLATE "C",
    claimed_until_ms bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (cast_n, seq)
);
CREATE INDEX outbox_due ON outbox (next_ms, cast_n) WHERE next_ms IS NOT NULL;
CREATE INDEX outbox_pending ON outbox (at_ms) WHERE NOT given_up;
CREATE INDEX outbox_given_up ON outbox (cast_n) WHERE given_up;
CREATE INDEX outbox_claimed ON outbox (cast_n) WHERE claimed_by IS NOT NULL;

CREATE TABLE attempts (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cast_n bigint NOT NULL REFERENCES casts ON DELETE CASCADE,
    content bytea NOT NULL
);
CREATE INDEX attempts_of_cast ON attempts (cast_n, n);

CREATE TABLE commands (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL REFERENCES casts (id) ON DELETE CASCADE,
    content bytea NOT NULL
);
CREATE INDEX commands_of_cast ON commands (id, n);

CREATE TABLE documents (
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    content bytea NOT NULL,
    version bigint NOT NULL, -- document_version after its last change
    PRIMARY KEY (kind, name)
);

-- One row: the number of the last change of any document. Whoever changes a document locks it.
CREATE TABLE document_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO document_version (version) VALUES (1);
ANALYZE document_version;

-- The process of each worker that registered last: a random number of it.
CREATE TABLE nodes (
    worker text COLLATE "C" PRIMARY KEY,
    instance bigint NOT NULL,
    registered_ms bigint NOT NULL -- fleet
);

-- A row a worker, with the statistics of its casts. Nothing is lost if it is.
CREATE UNLOGGED TABLE workers (
    worker text COLLATE "C" PRIMARY KEY,
    at_ms bigint NOT NULL, -- fleet
    status bytea NOT NULL,
    stats bytea NOT NULL,
    drain_requested boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- The node that carries each embedded room, until its lease ends. Not renewed while a room is empty.
CREATE TABLE rooms (
    room text COLLATE "C" PRIMARY KEY,
    node text COLLATE "C" NOT NULL,
    until_ms bigint NOT NULL -- fleet
) WITH (fillfactor = 50);
