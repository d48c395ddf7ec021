//! The methods that a service takes.
//!
//! Methods are case-sensitive and all that are registered are in capitals, but some frameworks
//! bring others to capitals: then a ban on `DELETE` would not hold for `delete`. So there is a
//! list: the common ones and what the service's routes name. Pure.

use keepgate_policy::route::Route;

/// What every service takes; QUERY is that of draft-ietf-httpbis-safe-method-w-body.
const COMMON: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"];
/// What no service takes, whatever its routes say.
const NEVER: [&str; 2] = ["CONNECT", "TRACE"];

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Methods {
    /// Those of the routes that are not common; sorted.
    named: Vec<Box<str>>,
}

impl Methods {
    /// Those of a service with these routes.
    pub(crate) fn of(routes: &[Route]) -> Methods {
        let is_new =
            |method: &&str| *method != "*" && !COMMON.contains(method) && !NEVER.contains(method);
        let mut named: Vec<Box<str>> =
            routes.iter().map(|r| r.method.as_str()).filter(is_new).map(Box::from).collect();
        named.sort_unstable();
        named.dedup();
        Methods { named }
    }

    /// Whether the service takes it.
    pub(crate) fn contains(&self, method: &str) -> bool {
        COMMON.contains(&method) || self.named.binary_search_by(|m| (**m).cmp(method)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_takes_the_common_ones_and_its_own() {
        let routes = ["GET", "*", "PURGE", "M-SEARCH", "TRACE", "CONNECT"];
        let methods = Methods::of(&routes.map(|method| Route::new(method, "/")));
        for method in COMMON.into_iter().chain(["PURGE", "M-SEARCH"]) {
            assert!(methods.contains(method), "{method}");
        }
        for method in ["TRACE", "CONNECT", "delete", "Delete", "MKCOL", "purge", "*", ""] {
            assert!(!methods.contains(method), "{method}");
        }
    }
}
