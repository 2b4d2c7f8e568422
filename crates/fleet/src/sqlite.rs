//! The embedded backend: SQLite in the data folder.
