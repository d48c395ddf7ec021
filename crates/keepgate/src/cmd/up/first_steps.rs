//! The lines that lead from a start of `keepgate up` to a first request that is allowed, with the
//! policies that are stored; or what is missing for one.
//!
//! It asks the center, as anybody could: who is named, which routes there are, and what is decided. It
//! asks a bounded number of questions, so of a large service it may find nothing, and says so.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use keepgate_api as api;
use keepgate_policy::Uid;
use keepgate_policy::model::{GrantBody, PolicyBody};
use keepgate_policy::route::Route;
use keepgate_policy::router::Router;
use keepgate_policy::sample::{self, Sample};
use keepgate_policy::service::{ServiceSettings, Unmatched};
use serde_json::json;

use crate::admin::{Admin, segment};

/// Callers that are tried.
const MAX_CALLERS: usize = 20;
/// Requests that are tried.
const MAX_REQUESTS: usize = 50;
/// Questions to the center.
const MAX_QUESTIONS: usize = 300;
/// Items of a list that are looked at.
const LOOKED_AT: usize = 500;

/// What the start screen says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstSteps {
    /// A request that is allowed.
    Try {
        request: Box<Sample>,
        caller: Caller,
        /// What its `Host` must say; none: anything.
        host: Option<String>,
    },
    Missing(Missing),
}

/// Why no request is allowed, in one sentence or two, and the command that is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) why: String,
    /// The words after `keepgate`.
    pub(super) command: String,
}

impl Missing {
    fn apply(why: &str) -> Missing {
        Missing { why: why.to_owned(), command: "apply ./policy".to_owned() }
    }
}

/// How a caller shows who it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Not at all.
    Anyone,
    /// With a key, in this header.
    Key { principal: Uid, header: String },
    /// With a header that is believed from this host.
    Named { principal: Uid, header: String },
    /// With a token of this issuer.
    Token { principal: Uid, issuer: String },
}

impl FirstSteps {
    /// Whatever is wrong with the search, the start goes on.
    pub(super) async fn find(admin: &mut Admin, service: &str) -> FirstSteps {
        FirstSteps::search(admin, service).await.unwrap_or_else(|error| {
            FirstSteps::Missing(Missing {
                why: format!("the center did not say what to try: {error:#}"),
                command: "status".to_owned(),
            })
        })
    }

    async fn search(admin: &mut Admin, service: &str) -> anyhow::Result<FirstSteps> {
        let path = |list: &str| format!("/v1/services/{}/{list}", segment(service));
        let of_service = format!("/v1/services/{}", segment(service));
        let about: api::Service<ServiceSettings> = admin.load(&of_service).await?;
        let routes = admin.load_all::<api::ItemList<Route>>(&path("routes")).await?;
        let routes: Vec<Route> = routes.into_iter().map(|route| route.body).collect();
        let requests = requests(routes, &about.settings);
        if requests.is_empty() {
            let why = format!(
                "`{service}` has no routes: every request is refused. Write policies (docs/files.md), \
                 with name = \"{service}\" in service.toml, then:"
            );
            return Ok(FirstSteps::Missing(Missing::apply(&why)));
        }
        let grants: api::ItemList<GrantBody> = admin.load(&first(&path("grants"))).await?;
        let policies: api::ItemList<PolicyBody> = admin.load(&first(&path("policies"))).await?;
        let members: api::Members = admin.load(&first("/v1/members")).await?;
        let said = Said {
            grants: grants.items.into_iter().map(|grant| grant.body).collect(),
            policies: policies.items.into_iter().map(|policy| policy.body.text).collect(),
            members: members.members,
            has_links: about.summary.links > 0,
        };
        let ways = Ways(&about.settings);
        let needed = about.settings.hosts.first().map(|host| {
            let host = String::from(host.clone());
            host.strip_prefix("*.").map_or(host.clone(), |below| format!("www.{below}"))
        });
        let host = needed.as_deref().unwrap_or("127.0.0.1");
        let mut asked = 0_usize;
        let callers = said.callers();
        for request in &requests {
            if request.anonymous {
                let nobody = &about.settings.identify.anonymous.principal;
                asked += 1;
                if allows(admin, service, nobody, request, host).await {
                    let (request, caller) = (Box::new(request.clone()), Caller::Anyone);
                    return Ok(FirstSteps::Try { request, caller, host: needed });
                }
            }
        }
        for principal in &callers {
            let Some(caller) = ways.of(principal) else { continue };
            for request in &requests {
                asked += 1;
                if asked > MAX_QUESTIONS {
                    break;
                }
                if allows(admin, service, principal, request, host).await {
                    let request = Box::new(request.clone());
                    return Ok(FirstSteps::Try { request, caller, host: needed });
                }
            }
        }
        Ok(FirstSteps::Missing(said.missing(&ways, &callers)))
    }
}

fn first(list: &str) -> String {
    format!("{list}?limit={LOOKED_AT}")
}

/// The requests to try: plain reading first.
fn requests(routes: Vec<Route>, settings: &ServiceSettings) -> Vec<Sample> {
    let is_open = settings.unmatched == Unmatched::Forward;
    let Ok(router) = Router::folding(routes, settings.paths_fold) else { return Vec::new() };
    let mut order: Vec<usize> = (0..router.routes().len()).collect();
    order.sort_by_key(|index| {
        let route = router.routes().get(*index);
        route.map(|r| (r.method != "GET", r.path.matches('{').count(), r.path.len()))
    });
    let samples = order.into_iter().filter_map(|index| sample::of(&router, index));
    let mut samples: Vec<Sample> = samples.take(MAX_REQUESTS).collect();
    if is_open && samples.len() < MAX_REQUESTS {
        samples.push(Sample {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            route: String::new(),
            action: Uid::new("Action", "GET"),
            resource: Uid::route("/"),
            anonymous: false,
        });
    }
    samples
}

/// Whether the center allows it, asked as a gate would ask.
async fn allows(
    admin: &mut Admin,
    service: &str,
    principal: &Uid,
    request: &Sample,
    host: &str,
) -> bool {
    let text = |uid: &Uid| api::UidInput::Text(uid.to_string());
    let context = [
        ("method", json!(request.method)),
        ("path", json!(request.path)),
        ("host", json!(host)),
        ("ip", json!("127.0.0.1")),
    ];
    let asked = api::Question::new(text(principal), text(&request.action), text(&request.resource));
    let question = api::Question {
        service: Some(service.to_owned()),
        context: context.map(|(name, value)| (name.to_owned(), value)).into(),
        ..asked
    };
    // What cannot be decided is not allowed.
    admin.post::<api::Answer>("/v1/check", &question).await.is_ok_and(|answer| answer.decision)
}

/// Who and what the policies name.
struct Said {
    grants: Vec<GrantBody>,
    policies: Vec<String>,
    members: Vec<api::Member>,
    has_links: bool,
}

impl Said {
    /// The callers to try: those that policies name first, then those in roles, then anybody.
    fn callers(&self) -> Vec<Uid> {
        let mut callers: Vec<Uid> = Vec::new();
        let mut add = |uid: Uid| {
            if callers.len() < MAX_CALLERS && uid.kind != "role" && !callers.contains(&uid) {
                callers.push(uid);
            }
        };
        for principal in self.named() {
            let members = self.members.iter().filter(|member| parsed(&member.role) == principal);
            let members: Vec<Uid> = members.map(|member| parsed(&member.member)).collect();
            // A role or group is nobody; who is in it is.
            if members.is_empty() {
                add(principal);
            } else {
                members.into_iter().for_each(&mut add);
            }
        }
        self.members.iter().map(|member| parsed(&member.member)).for_each(&mut add);
        add(Uid::new("user", "me"));
        callers
    }

    /// The principals in grants and in the scopes of policies.
    fn named(&self) -> Vec<Uid> {
        let in_policies = self.policies.iter().filter_map(|text| in_scope(text));
        self.grants.iter().map(|grant| grant.principal.clone()).chain(in_policies).collect()
    }

    /// What to do so that somebody may do something.
    fn missing(&self, ways: &Ways<'_>, callers: &[Uid]) -> Missing {
        if self.grants.is_empty() && self.policies.is_empty() && !self.has_links {
            return Missing::apply(
                "no policy permits anything: every request is refused. Write one into a `*.cedar` file, \
                 such as `permit (principal == user::\"me\", action, resource);`, then:",
            );
        }
        if !callers.iter().any(|principal| ways.of(principal).is_some()) {
            return Missing::apply(
                "the callers that the policies name cannot show who they are: every request is refused. \
                 Write `[identify.api_key]` into service.toml, then:",
            );
        }
        let roles: BTreeSet<String> = self
            .named()
            .into_iter()
            .filter(|role| role.kind == "role")
            .filter(|role| !self.members.iter().any(|member| parsed(&member.role) == *role))
            .map(|role| role.to_string())
            .collect();
        if let Some(role) = roles.first() {
            return Missing {
                why: format!(
                    "nobody is in {role}, which the policies permit something; put one in:"
                ),
                command: format!("role assign 'user::\"me\"' {}", quoted(role)),
            };
        }
        Missing {
            why: "none of the callers and routes that were tried is allowed; ask why:".to_owned(),
            command:
                "check --principal 'user::\"me\"' --action GET --resource 'route::\"/\"' --explain"
                    .to_owned(),
        }
    }
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn parsed(uid: &api::Uid) -> Uid {
    Uid::new(&uid.kind, &uid.id)
}

/// The principal that a policy's scope names: of the text up to the first comma.
fn in_scope(policy: &str) -> Option<Uid> {
    let scope = policy.split_once("permit")?.1.split_once('(')?.1;
    let after = scope.trim_start().strip_prefix("principal")?.trim_start();
    let named = after
        .strip_prefix("==")
        .or_else(|| after.strip_prefix("in"))
        .or_else(|| after.strip_prefix("is").and_then(|is| Some(is.split_once(" in ")?.1)))?;
    // An id may have a comma: it ends with its quote.
    let quoted = named.find("::\"")? + 3;
    let mut escaped = false;
    let end = named.get(quoted..)?.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    named.get(..=quoted + end)?.trim().parse::<Uid>().ok()
}

/// The ways in which a service identifies callers.
struct Ways<'s>(&'s ServiceSettings);

impl Ways<'_> {
    /// How this principal can show who it is; none: it cannot.
    fn of(&self, principal: &Uid) -> Option<Caller> {
        let identify = &self.0.identify;
        if *principal == identify.anonymous.principal {
            return None;
        }
        let principal = principal.clone();
        if let Some(way) = &identify.api_key {
            return Some(Caller::Key { principal, header: way.header.clone() });
        }
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if let Some(way) = &identify.trusted_header
            && way.principal_type == principal.kind
            && way.peers.iter().any(|range| range.contains(local))
        {
            return Some(Caller::Named { principal, header: way.header.clone() });
        }
        let issuer = identify.jwt.iter().find(|jwt| jwt.principal_type == principal.kind)?;
        Some(Caller::Token { principal, issuer: issuer.issuer.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_principal_of_a_scope() {
        let named = |text: &str| in_scope(text).map(|uid| uid.to_string());
        for (text, expected) in [
            ("permit (principal == user::\"a, \\\"b\", action, resource);", "user::\"a, \\\"b\""),
            ("@id(\"x\") permit(principal in role::\"r\", action, resource);", "role::\"r\""),
            (
                "permit (principal is user in shop::role::\"r\", action, resource);",
                "shop::role::\"r\"",
            ),
        ] {
            assert_eq!(named(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "permit (principal, action, resource);",
            "permit (principal is user, action == Action::\"GET\", resource);",
            "permit (principal == ?principal, action, resource);",
            "forbid (principal == user::\"a\", action, resource);",
        ] {
            let found = named(text);
            assert!(
                found.as_deref().is_none_or(|uid| !uid.starts_with("user")),
                "{text}: {found:?}"
            );
        }
    }
}
