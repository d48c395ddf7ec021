//! Options of sign-in to the console at an identity provider.

use std::path::PathBuf;
use std::time::Duration;

use keepgate_center::{OidcConfig, RoleRule};
use keepgate_policy::duration;

use crate::exit::usage;

/// Sign-in to the console with OpenID Connect.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sign-in with OpenID Connect")]
pub(super) struct OidcArgs {
    /// The identity provider, as its tokens name it (`iss`); the provider sends people back to
    /// PUBLIC_URL/login/oidc/back
    #[arg(long, env = "KEEPGATE_OIDC_ISSUER", value_name = "URL", requires_all = ["oidc_client_id", "oidc_role"])]
    oidc_issuer: Option<String>,
    /// By what the provider knows this center
    #[arg(long, env = "KEEPGATE_OIDC_CLIENT_ID", value_name = "ID", requires = "oidc_issuer")]
    oidc_client_id: Option<String>,
    /// File with the client's secret; without it the center is a public client, with PKCE
    #[arg(long, env = "KEEPGATE_OIDC_CLIENT_SECRET", value_name = "F", requires = "oidc_issuer")]
    oidc_client_secret: Option<PathBuf>,
    /// Who gets which role, such as admin=groups=platform or editor@shop=groups=shop-team; may be
    /// repeated, the first that fits counts (in the environment: one a line)
    #[arg(
        long,
        env = "KEEPGATE_OIDC_ROLE",
        value_name = "ROLE[@SERVICE]=CLAIM=VALUE",
        value_delimiter = '\n',
        requires = "oidc_issuer"
    )]
    oidc_role: Vec<RoleRule>,
    /// What is asked for beside `openid`, such as groups; may be repeated
    #[arg(
        long,
        env = "KEEPGATE_OIDC_SCOPE",
        value_name = "SCOPE",
        value_delimiter = ' ',
        requires = "oidc_issuer"
    )]
    oidc_scope: Vec<String>,
    /// The claim by which the audit log names people; nobody may be able to choose their own
    #[arg(long, env = "KEEPGATE_OIDC_USER_CLAIM", value_name = "CLAIM", default_value = "sub")]
    oidc_user_claim: String,
    /// How long a sign-in lasts, from 1m to 12h; who is removed at the provider is out after that
    #[arg(
        long,
        env = "KEEPGATE_OIDC_SESSION",
        value_name = "DURATION",
        value_parser = duration::parse_ms,
        default_value = "1h"
    )]
    oidc_session: u64,
}

impl OidcArgs {
    /// The settings; none: people sign in with tokens.
    pub(super) fn config(self) -> anyhow::Result<Option<OidcConfig>> {
        let Some((issuer, client_id)) = self.oidc_issuer.zip(self.oidc_client_id) else {
            return Ok(None);
        };
        let secret = |file: PathBuf| {
            let shown = file.display();
            let text = std::fs::read_to_string(&file)
                .map_err(|e| usage(format!("`--oidc-client-secret {shown}` cannot be read: {e}")));
            text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
        };
        Ok(Some(OidcConfig {
            issuer,
            client_id,
            client_secret: self.oidc_client_secret.map(secret).transpose()?,
            scopes: self.oidc_scope,
            roles: self.oidc_role,
            user_claim: self.oidc_user_claim,
            session: Duration::from_millis(self.oidc_session),
        }))
    }
}
