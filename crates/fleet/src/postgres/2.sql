-- Signatures of requests that nodes have answered, some in each row, until they are not valid any more.
CREATE TABLE answered_requests (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL, -- fleet
    until_ms bigint NOT NULL, -- fleet
    content bytea NOT NULL
);
CREATE INDEX answered_requests_at ON answered_requests (at_ms);
CREATE INDEX answered_requests_until ON answered_requests (until_ms);
