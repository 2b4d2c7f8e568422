//! The vendors' own SDKs, unmodified, against `pagecast serve`: each returns and raises what it does with its cloud.
//!
//! A client in the language of each SDK (`third-party/sdk`) does what it is told and says what came of it; what is right is decided here.

#[path = "sdk/client.rs"]
mod client;
#[path = "sdk/guide_examples.rs"]
mod guide_examples;
#[path = "sdk/tencent.rs"]
mod tencent;
#[path = "sdk/vendor_examples.rs"]
mod vendor_examples;
#[path = "sdk/volcengine.rs"]
mod volcengine;
