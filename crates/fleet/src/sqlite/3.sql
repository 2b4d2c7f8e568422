-- Labels that a cast asks for: sorted, each once, with commas in between (queue.rs).
ALTER TABLE casts ADD COLUMN labels TEXT NOT NULL DEFAULT '';
DROP INDEX casts_waiting;
CREATE INDEX casts_waiting ON casts (app, labels) WHERE state = 0;

-- Number of the last change of any document, and of each.
CREATE TABLE document_version (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO document_version VALUES (1, 1);
ALTER TABLE documents ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

-- Ledger of each recording until its cast is closed: what was recorded, and what of it is stored.
-- kind and number are LedgerRow::key.

CREATE TABLE ledger (
    whose INTEGER NOT NULL REFERENCES casts ON DELETE CASCADE,
    kind INTEGER NOT NULL,
    number INTEGER NOT NULL,
    what BLOB NOT NULL,
    PRIMARY KEY (whose, kind, number)
) STRICT, WITHOUT ROWID;
