//! What a storage may lead to that a request named: names are looked up here, once, and connections made to what was checked.

use std::net::IpAddr;
use std::sync::Arc;

use pagecast_core::spec::{Bucket, Network, Refusal, Service};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::own;

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    #[error("its address is not public, and no rule of the network allows it")]
    NotPublic,
    #[error("a rule of the network denies its address")]
    Denied,
}

impl From<Refusal> for Closed {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotPublic => Self::NotPublic,
            Refusal::Denied => Self::Denied,
        }
    }
}

/// Resolves names to what may be reached of them.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    network: Arc<Network>,
    port: u16,
}

impl Guard {
    /// What this bucket is held to, if it is to anything. A service's own hosts are not: within their clouds they are private.
    ///
    /// # Errors
    /// It cannot be used at all, in words.
    pub(super) fn of(bucket: &Bucket) -> Result<Option<Self>, String> {
        let Some(network) = &bucket.network else { return Ok(None) };
        if let Some(keys) = bucket.keys.as_ref().filter(|_| bucket.service == Service::Gcs) {
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
        guard.judge(endpoint).map_err(|closed| closed.to_string())?;
        Ok(Some(guard))
    }

    /// Addresses are not looked up, so they are looked at before.
    fn judge(&self, url: &Url) -> Result<(), Closed> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        Ok(self.network.permits(&own::addresses(), &address.to_string(), address, self.port)?)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), guard.port)).await?;
            let own = own::addresses();
            let (mut open, mut closed) = (Vec::new(), None);
            for address in found {
                match guard.network.permits(&own, name.as_str(), address.ip(), guard.port) {
                    Ok(()) => open.push(address),
                    Err(refusal) => closed = Some(Closed::from(refusal)),
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
    use pagecast_core::spec::{Keys, Rule};

    use super::*;

    #[test]
    fn what_a_request_names_is_held_to_its_network() {
        let allow = vec![Rule::parse("127.0.0.1:9000").unwrap()];
        let network = Network { allow, ..Network::default() };
        for (service, endpoint, key, guarded) in [
            (Service::S3, None, "s", Some(false)),
            (Service::S3, Some("http://a.example:9000"), "s", Some(true)),
            (Service::S3, Some("http://127.0.0.1:9000"), "s", Some(true)),
            (Service::S3, Some("http://127.0.0.1:9001"), "s", None),
            (Service::S3, Some("http://2130706433/"), "s", None),
            (Service::S3, Some("http://[::ffff:7f00:1]/"), "s", None),
            (Service::S3, Some("http://169.254.169.254/"), "s", None),
            (Service::Gcs, None, r#"{"private_key": "k"}"#, Some(false)),
            (Service::Gcs, None, r#"{"private_key": "k", "gcs_base_url": "http://10.0.0.1"}"#, None),
            (Service::Gcs, None, r#"["k", "i", "e", "https://10.0.0.1", true]"#, None),
            (Service::Gcs, None, "k", None),
        ] {
            let mut bucket = Bucket::new(service, "rec");
            bucket.endpoint = endpoint.map(|url| url.parse().unwrap());
            bucket.keys = Some(Keys::new("a", key));
            assert!(Guard::of(&bucket).unwrap().is_none(), "the operator names what he likes");
            bucket.network = Some(network.clone());
            assert_eq!(Guard::of(&bucket).ok().map(|guard| guard.is_some()), guarded, "{endpoint:?} {key}");
        }
    }
}
