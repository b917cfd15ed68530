CREATE TABLE notes (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    written_at INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT;
