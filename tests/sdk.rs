//! The vendors' own SDKs, unmodified, against `pagecast serve`: each returns and raises what it does with its cloud.
//!
//! A client in the language of each SDK (`third-party/sdk`) does what it is told and says what came of it; what is right is decided here.

#[path = "sdk/client.rs"]
mod client;
#[path = "sdk/guide.rs"]
mod guide;
#[path = "sdk/seeds.rs"]
mod seeds;
#[path = "sdk/tencent.rs"]
mod tencent;
#[path = "sdk/volcengine.rs"]
mod volcengine;
