//! `[console]`: how people sign in to the console.

use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};

use crate::permission::Permission;

/// Signing in to the console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Console {
    /// Provider with which people sign in (OpenID Connect). Without it, tokens and links of `pagecast
    /// console` are the only ways.
    pub oidc: Option<Oidc>,
}

/// Signing in with OpenID Connect: authorization code flow with PKCE. Register
/// `https://HOST/v1/session/oidc/callback` as redirect URI. A session ends after 12 hours without a request,
/// and after 24 hours in any case, so that a changed role takes effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Issuer, exactly as the provider writes it in its tokens, like
    /// `https://login.example.com/realms/staff`. `http` is only possible on loopback.
    pub issuer: String,
    /// Id of this service at the provider.
    pub client_id: String,
    /// Secret of this service at the provider. Without one, PKCE alone protects the exchange.
    #[serde(default)]
    pub client_secret: Option<Secret>,
    /// Scopes to ask for. `openid` must be among them.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// Name of the provider on the button of the sign-in page.
    #[serde(default = "default_label")]
    pub label: String,
    /// Claim with the roles or groups of a person: a string or a list of strings. Dots lead into objects
    /// (`realm_access.roles`).
    #[serde(default = "default_role_claim")]
    pub role_claim: String,
    /// What people with these values may do. The first entry that fits decides; without one, nobody can sign
    /// in.
    pub roles: Vec<OidcRole>,
}

/// What people with one value of the role claim may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcRole {
    /// Value of the claim; `*` is everybody whom the provider knows.
    pub value: String,
    /// `viewer` sees everything, `operator` also starts, stops and changes casts, `admin` also changes
    /// applications, keys, tokens and nodes.
    pub role: Permission,
    /// Name of the application that the role is for, as if with one of its tokens. Without it, the role is
    /// for everything, as with the administrator's token.
    #[serde(default)]
    pub app: Option<String>,
}

fn default_scopes() -> Vec<String> {
    ["openid", "email", "profile"].map(str::to_owned).to_vec()
}

fn default_label() -> String {
    "OpenID Connect".to_owned()
}

fn default_role_claim() -> String {
    "roles".to_owned()
}

impl Oidc {
    /// The entry that decides about a person with these values of the role claim.
    #[must_use]
    pub fn role_of(&self, values: &[String]) -> Option<&OidcRole> {
        self.roles.iter().find(|role| role.value == "*" || values.contains(&role.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_role_that_fits_decides() {
        let oidc: Oidc = toml::from_str(
            r#"
            issuer = "https://a.example"
            client_id = "pagecast"
            roles = [
                { value = "owners", role = "admin" },
                { value = "teachers", role = "operator", app = "school" },
                { value = "*", role = "viewer" },
            ]
            "#,
        )
        .unwrap();
        let role = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            let role = oidc.role_of(&values).unwrap();
            (role.role, role.app.as_deref())
        };
        assert_eq!(role(&["teachers", "owners"]), (Permission::Admin, None));
        assert_eq!(role(&["teachers"]), (Permission::Operator, Some("school")));
        assert_eq!(role(&[]), (Permission::Viewer, None));
        assert_eq!(oidc.scopes, ["openid", "email", "profile"]);
    }
}
