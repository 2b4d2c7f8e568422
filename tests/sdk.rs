//! The vendors' SDKs, unmodified, against `pagecast serve`: results and errors are those of the vendor's
//! cloud.
//!
//! A client in the language of each SDK (`third-party/sdk`) carries out steps and prints their results. The
//! tests here check them. Half of the SDKs of each vendor talk to a service on SQLite, and half to one on
//! PostgreSQL, because the answers come from the same front end. One SDK of each vendor also talks to three
//! nodes of a fleet.

#[path = "sdk/client.rs"]
mod client;
#[path = "sdk/explorer.rs"]
mod explorer;
#[path = "sdk/fleet.rs"]
mod fleet;
#[path = "sdk/guide_examples.rs"]
mod guide_examples;
#[path = "sdk/tencent.rs"]
mod tencent;
#[path = "sdk/vendor_examples.rs"]
mod vendor_examples;
#[path = "sdk/volcengine.rs"]
mod volcengine;
