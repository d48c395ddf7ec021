//! What `keepgate up --demo` adds: a small orders service, its policies, and callers with keys.
//!
//! The policies are `examples/orders`, embedded; the service is a real HTTP server on a loopback
//! port; the callers have real API keys, made by the center like any other.

pub(crate) mod orders;

use std::collections::BTreeMap;
use std::path::Path;

use keepgate_policy::Uid;
use serde::{Deserialize, Serialize};

use crate::admin::{Admin, segment};
use crate::cmd::apply::Bundle;
use crate::cmd::key;
use crate::secret;

/// The file in the data directory with the callers' keys, mode 0600.
const KEYS_FILE: &str = "demo-keys.json";

/// `examples/orders`, as `keepgate apply` reads it.
pub(crate) fn bundle() -> anyhow::Result<Bundle> {
    let files = [
        ("service.toml", include_str!("../../../../examples/orders/service.toml")),
        ("openapi.yaml", include_str!("../../../../examples/orders/openapi.yaml")),
        ("roles.toml", include_str!("../../../../examples/orders/roles.toml")),
        ("orders.cedar", include_str!("../../../../examples/orders/orders.cedar")),
        ("entities.json", include_str!("../../../../examples/orders/entities.json")),
    ];
    let files: BTreeMap<_, _> = files.map(|(name, text)| (name.into(), text.into())).into();
    Bundle::from_files(files, "examples/orders")
}

/// The API keys of the demo's callers.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// `user::"alice"`: everything on orders.
    pub(crate) alice: String,
    /// `user::"bob"`: reads orders.
    pub(crate) bob: String,
    /// `client::"crawler"`: reads orders.
    pub(crate) crawler: String,
}

impl Keys {
    /// Those of an earlier start in this data directory, else new ones.
    pub(crate) async fn ensure(
        admin: &mut Admin,
        service: &str,
        data: &Path,
    ) -> anyhow::Result<Keys> {
        let path = data.join(KEYS_FILE);
        if let Some(keys) =
            std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Keys>(&b).ok())
        {
            let path = format!("/v1/services/{}/keys", segment(service));
            let known = admin.load_all::<keepgate_api::Keys>(&path).await?;
            let is_known = |text: &String| {
                let prefix = key::prefix_of(text);
                known.iter().any(|known| known.prefix == prefix)
            };
            if [&keys.alice, &keys.bob, &keys.crawler].into_iter().all(is_known) {
                return Ok(keys);
            }
        }
        let keys = Keys {
            alice: make(admin, service, &Uid::new("user", "alice")).await?,
            bob: make(admin, service, &Uid::new("user", "bob")).await?,
            crawler: make(admin, service, &Uid::new("client", "crawler")).await?,
        };
        secret::write(&path, &serde_json::to_string_pretty(&keys)?)?;
        Ok(keys)
    }
}

async fn make(admin: &mut Admin, service: &str, principal: &Uid) -> anyhow::Result<String> {
    let fields = key::Fields { note: "demo", ..key::Fields::default() };
    Ok(key::create(admin, service, principal, &fields).await?.key)
}
