//! Network policy of storages: which addresses the endpoint of a bucket may resolve to, if a request named
//! it.

use pagecast_core::spec::{Bucket, NetworkRefusal, StorageService};
use pagecast_egress::FilteringResolver;
use pagecast_egress::check::check_literal;

/// Why the endpoint of a bucket is not connected to.
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

/// Resolver for requests to `bucket`; `None` if it may connect anywhere. The hosts of a storage service
/// itself are not checked: within their cloud they have private addresses.
///
/// # Errors
/// Why the bucket cannot be used, in words.
pub(super) fn resolver_for_bucket(bucket: &Bucket) -> Result<Option<FilteringResolver>, String> {
    let Some(network) = &bucket.network else { return Ok(None) };
    if let Some(keys) = bucket.keys.as_ref().filter(|_| bucket.service == StorageService::Gcs) {
        // The client would also read a list, by the order of its values.
        let Ok(serde_json::Value::Object(file)) = serde_json::from_str(keys.secret_key.reveal()) else {
            return Err("its key file is not a JSON object".into());
        };
        if file.contains_key("gcs_base_url") {
            return Err("its key file names another server: leave that out, and name an endpoint".into());
        }
    }
    let Some(endpoint) = &bucket.endpoint else { return Ok(None) };
    let port = endpoint.port_or_known_default().unwrap_or_default();
    if let Some(host) = endpoint.host() {
        check_literal(network, &host, port).map_err(|refusal| ResolveError::from(refusal).to_string())?;
    }
    Ok(Some(FilteringResolver::new(network, port)))
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{NetworkPolicy, NetworkRule, StorageKeys};

    use super::*;

    #[test]
    fn endpoints_of_requests_are_checked() {
        let allow = vec![NetworkRule::parse("127.0.0.1:9000").unwrap()];
        let network = NetworkPolicy { allow, ..NetworkPolicy::default() };
        for (service, endpoint, key, filtered) in [
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
                resolver_for_bucket(&bucket).unwrap().is_none(),
                "buckets of the operator are not checked"
            );
            bucket.network = Some(network.clone());
            assert_eq!(
                resolver_for_bucket(&bucket).ok().map(|resolver| resolver.is_some()),
                filtered,
                "{endpoint:?} {key}"
            );
        }
    }
}
