//! What is valid and perhaps not meant. A dry run and an apply tell of it; only `--strict` refuses it.
//!
//! Pure.

use crate::identify::is_everybody;
use crate::model::{Item, ItemBody, ItemKey};
use crate::service::ServiceSettings;
use crate::spelling;
use crate::spot::Spot;

/// Something that is allowed and perhaps not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The item that it is about.
    pub key: ItemKey,
    /// The place within the item's text, where it is known.
    pub spot: Option<Spot>,
    /// What may happen and what to do.
    pub message: String,
}

/// Warnings about a service's items: whom it believes, then spellings ([`spelling`]), at most
/// [`spelling::MAX_FOUND`] and one.
pub fn warnings(items: &[Item]) -> Vec<Warning> {
    let settings = items.iter().find_map(|item| match &item.body {
        ItemBody::Service(settings) => Some((&item.key, settings.as_ref())),
        _ => None,
    });
    let Some((key, settings)) = settings else { return Vec::new() };
    let mut found: Vec<Warning> = believes_everybody(key, settings).into_iter().collect();
    found.extend(spelling::warnings(settings, items));
    found
}

/// A header that anybody may set identifies nobody.
fn believes_everybody(key: &ItemKey, settings: &ServiceSettings) -> Option<Warning> {
    let trusted = settings.identify.trusted_header.as_ref()?;
    is_everybody(&trusted.peers).then(|| Warning {
        key: key.clone(),
        spot: None,
        message: format!(
            "the `peers` of the trusted header `{}` include every address, so any caller could \
             claim any identity: gates answer 503 to requests with it unless they are started \
             with --trust-everybody; name the proxies in front",
            trusted.header
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_believed_from_everybody_is_warned_of() {
        let said = |peers: &str| {
            let settings: ServiceSettings = serde_json::from_str(&format!(
                "{{\"name\":\"orders\",\"identify\":{{\"trusted_header\":{{\"header\":\"x-user\",\
                 \"peers\":{peers}}}}}}}"
            ))
            .unwrap();
            let item = Item::new("orders", "", ItemBody::Service(Box::new(settings)));
            warnings(&[item]).into_iter().map(|warning| warning.message).collect::<String>()
        };
        for peers in ["[\"0.0.0.0/0\"]", "[\"::/0\"]", "[\"128.0.0.0/1\",\"0.0.0.0/1\"]"] {
            assert!(said(peers).contains("--trust-everybody"), "{peers}");
        }
        assert_eq!(said("[\"10.0.0.0/8\"]"), "");
    }
}
