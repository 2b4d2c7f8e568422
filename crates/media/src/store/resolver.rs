//! What a storage may lead to that a request named: names are looked up here, once, and connections made to what was checked.

use std::net::IpAddr;
use std::sync::Arc;

use pagecast_core::spec::{Bucket, NetworkPolicy, NetworkRefusal, StorageService};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::local_addresses;

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("its address is not public, and no rule of the network allows it")]
    NotPublic,
    #[error("a rule of the network denies its address")]
    Denied,
}

impl From<NetworkRefusal> for ResolveError {
    fn from(refusal: NetworkRefusal) -> Self {
        match refusal {
            NetworkRefusal::NotPublic => Self::NotPublic,
            NetworkRefusal::Denied => Self::Denied,
        }
    }
}

/// Resolves names to what may be reached of them.
#[derive(Debug, Clone)]
pub(super) struct FilteringResolver {
    network: Arc<NetworkPolicy>,
    port: u16,
}

impl FilteringResolver {
    /// What this bucket is held to, if it is to anything. A service's own hosts are not: within their clouds they are private.
    ///
    /// # Errors
    /// It cannot be used at all, in words.
    pub(super) fn for_bucket(bucket: &Bucket) -> Result<Option<Self>, String> {
        let Some(network) = &bucket.network else { return Ok(None) };
        if let Some(keys) = bucket.keys.as_ref().filter(|_| bucket.service == StorageService::Gcs) {
            // A list would be read, too, by the order of its values.
            let Ok(serde_json::Value::Object(file)) = serde_json::from_str(keys.secret_key.reveal()) else {
                return Err("its key file is not a JSON object".into());
            };
            if file.contains_key("gcs_base_url") {
                return Err("its key file names another server: leave that out, and name an endpoint".into());
            }
        }
        let Some(endpoint) = &bucket.endpoint else { return Ok(None) };
        let port = endpoint.port_or_known_default().unwrap_or_default();
        let guard = Self { network: Arc::new(network.clone()), port };
        guard.check_literal_address(endpoint).map_err(|closed| closed.to_string())?;
        Ok(Some(guard))
    }

    /// Addresses are not looked up, so they are looked at before.
    fn check_literal_address(&self, url: &Url) -> Result<(), ResolveError> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        Ok(self.network.permits(&local_addresses::read(), &address.to_string(), address, self.port)?)
    }
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), guard.port)).await?;
            let own = local_addresses::read();
            let (mut open, mut closed) = (Vec::new(), None);
            for address in found {
                match guard.network.permits(&own, name.as_str(), address.ip(), guard.port) {
                    Ok(()) => open.push(address),
                    Err(refusal) => closed = Some(ResolveError::from(refusal)),
                }
            }
            match closed {
                Some(closed) if open.is_empty() => Err(closed.into()),
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{NetworkRule, StorageKeys};

    use super::*;

    #[test]
    fn what_a_request_names_is_held_to_its_network() {
        let allow = vec![NetworkRule::parse("127.0.0.1:9000").unwrap()];
        let network = NetworkPolicy { allow, ..NetworkPolicy::default() };
        for (service, endpoint, key, guarded) in [
            (StorageService::S3, None, "s", Some(false)),
            (StorageService::S3, Some("http://a.example:9000"), "s", Some(true)),
            (StorageService::S3, Some("http://127.0.0.1:9000"), "s", Some(true)),
            (StorageService::S3, Some("http://127.0.0.1:9001"), "s", None),
            (StorageService::S3, Some("http://2130706433/"), "s", None),
            (StorageService::S3, Some("http://[::ffff:7f00:1]/"), "s", None),
            (StorageService::S3, Some("http://169.254.169.254/"), "s", None),
            (StorageService::Gcs, None, r#"{"private_key": "k"}"#, Some(false)),
            (StorageService::Gcs, None, r#"{"private_key": "k", "gcs_base_url": "http://10.0.0.1"}"#, None),
            (StorageService::Gcs, None, r#"["k", "i", "e", "https://10.0.0.1", true]"#, None),
            (StorageService::Gcs, None, "k", None),
        ] {
            let mut bucket = Bucket::new(service, "rec");
            bucket.endpoint = endpoint.map(|url| url.parse().unwrap());
            bucket.keys = Some(StorageKeys::new("a", key));
            assert!(
                FilteringResolver::for_bucket(&bucket).unwrap().is_none(),
                "the operator names what he likes"
            );
            bucket.network = Some(network.clone());
            assert_eq!(
                FilteringResolver::for_bucket(&bucket).ok().map(|guard| guard.is_some()),
                guarded,
                "{endpoint:?} {key}"
            );
        }
    }
}
