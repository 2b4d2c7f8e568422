//! The one module that knows str0m.
