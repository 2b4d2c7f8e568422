//! HTTP clients whose connections keep to a network policy.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal};
use reqwest::dns::{Addrs, Name, Resolving};
use reqwest::{Client, ClientBuilder, redirect};

use crate::check::check_addresses;

/// Starts an HTTP/1.1 client that does not follow redirects: they could carry credentials to another host.
pub fn client_builder() -> ClientBuilder {
    Client::builder().redirect(redirect::Policy::none()).http1_only()
}

/// Starts a client as [`client_builder`] does that connects only to addresses which `resolver` permits. It
/// ignores the proxies of the environment, since a proxy would resolve names itself.
///
/// Hosts written as addresses are not resolved: check them with
/// [`check_literal`](crate::check::check_literal).
pub fn filtered_client_builder(resolver: FilteringResolver) -> ClientBuilder {
    client_builder().no_proxy().dns_resolver(resolver)
}

/// Why a name gives no address to connect to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// All its addresses are refused; the reason is that of the last one.
    #[error("the network policy refuses its address ({0:?})")]
    Refused(NetworkRefusal),
    /// The lookup failed.
    #[error("the name lookup failed")]
    Lookup(#[source] io::Error),
    /// The lookup gave no address.
    #[error("it has no address")]
    NoAddress,
}

impl ResolveError {
    /// The `ResolveError` among the causes of a failed request.
    #[must_use]
    pub fn find_in(error: &reqwest::Error) -> Option<&Self> {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(found) = current.downcast_ref() {
                return Some(found);
            }
            cause = current.source();
        }
        None
    }
}

/// Resolver for `reqwest` that keeps only the addresses that a network policy permits for one port.
#[derive(Debug, Clone, PartialEq)]
pub struct FilteringResolver {
    network: Arc<NetworkPolicy>,
    port: u16,
}

impl FilteringResolver {
    /// A resolver for connections to `port`.
    #[must_use]
    pub fn new(network: &NetworkPolicy, port: u16) -> Self {
        Self { network: Arc::new(network.clone()), port }
    }

    /// Whether this resolver applies `network` to connections to `port`.
    #[must_use]
    pub fn applies(&self, network: &NetworkPolicy, port: u16) -> bool {
        self.port == port && *self.network == *network
    }

    async fn permitted_addresses(&self, host: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = tokio::net::lookup_host((host, self.port)).await.map_err(ResolveError::Lookup)?;
        let checked = check_addresses(&self.network, host, found.map(|address| address.ip()), self.port);
        if checked.permitted.is_empty() {
            return Err(checked.last_refusal().map_or(ResolveError::NoAddress, ResolveError::Refused));
        }
        Ok(checked.permitted.into_iter().map(|address| SocketAddr::new(address, self.port)).collect())
    }
}

impl reqwest::dns::Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let permitted = resolver.permitted_addresses(name.as_str()).await?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::NetworkRule;

    use super::*;

    /// The error of a request to `url` under `network`.
    fn request_error(network: &NetworkPolicy, url: &str) -> reqwest::Error {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = filtered_client_builder(FilteringResolver::new(network, 9)).build().unwrap();
        runtime.block_on(client.get(url).send()).unwrap_err()
    }

    #[test]
    fn requests_fail_with_the_reason() {
        let allow = vec![NetworkRule::parse("localhost:9").unwrap()];
        let open = NetworkPolicy { allow, ..NetworkPolicy::default() };
        let deny = vec![NetworkRule::parse("localhost").unwrap()];
        let denied = NetworkPolicy { deny, ..NetworkPolicy::default() };
        let error = request_error(&NetworkPolicy::default(), "http://localhost:9/");
        let found = ResolveError::find_in(&error);
        assert!(matches!(found, Some(ResolveError::Refused(NetworkRefusal::NotPublic))), "{error:?}");
        let error = request_error(&denied, "http://localhost:9/");
        let found = ResolveError::find_in(&error);
        assert!(matches!(found, Some(ResolveError::Refused(NetworkRefusal::Denied))), "{error:?}");
        let error = request_error(&open, "http://no-such-host.invalid:9/");
        assert!(matches!(ResolveError::find_in(&error), Some(ResolveError::Lookup(_))), "{error:?}");
        // Nothing listens on the discard port: the lookup passed, the connection failed.
        let error = request_error(&open, "http://localhost:9/");
        assert!(ResolveError::find_in(&error).is_none() && error.is_connect(), "{error:?}");
    }

    #[test]
    fn a_resolver_is_reused_for_the_same_policy_and_port() {
        let network = NetworkPolicy::default();
        let resolver = FilteringResolver::new(&network, 443);
        assert!(resolver.applies(&network, 443) && !resolver.applies(&network, 80));
        assert!(!resolver.applies(&NetworkPolicy { udp: true, ..network }, 443));
    }
}
