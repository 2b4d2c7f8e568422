//! What is kept sealed: AES-256-GCM with a key from a file or the environment.
