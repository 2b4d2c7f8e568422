//! The one place that knows str0m. What the rest of the crate needs of it has its name here.

pub(crate) mod serve;

pub(crate) mod offer;

pub(crate) use str0m::Candidate;
pub(crate) use str0m::net::{Protocol, TcpType};
