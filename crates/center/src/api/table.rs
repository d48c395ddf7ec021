//! Every endpoint, once: method, path, what it needs, what it says, who answers.

mod sessions;

use std::borrow::Cow;

use axum::Extension;
use axum::extract::State;
use axum::routing::{MethodRouter, delete, get, post, put};
use keepgate_api as api;
use keepgate_limit::rules::{NamedPlan, Rule};
use keepgate_limit::top::TopAnswer;
use keepgate_policy::Kind;
use keepgate_policy::model::{
    EntityBody, GrantBody, LinkBody, MemberBody, PolicyBody, RoleBody, SchemaBody,
};
use keepgate_policy::route::Route;
use keepgate_policy::service::ServiceSettings;
use schemars::JsonSchema;
use serde_json::Value;

use super::input::{Args, Condition, Json, Page, Params};
use super::openapi::Content;
use super::removal::Cascade;
use super::{
    App, assertions, audit, authzen, authzen_shapes, cedar, check, directory, extras, hour, import,
    items, keys, logs, openapi, past, removal, requests, rollback, services, status, top, who,
    writes,
};
use crate::access::{Caller, Permission};
use crate::token::Role;

/// One endpoint.
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    pub(crate) path: Cow<'static, str>,
    pub(crate) needs: Permission,
    /// The OpenAPI `operationId`.
    pub(crate) id: Cow<'static, str>,
    pub(crate) summary: Cow<'static, str>,
    /// The status of a good answer.
    pub(crate) status: u16,
    /// Query parameters and their JSON types.
    pub(crate) query: &'static [(&'static str, &'static str)],
    /// Whether `If-Match` and `If-None-Match` are understood.
    pub(crate) conditional: bool,
    /// The request's body.
    pub(crate) body: Option<Content>,
    /// A good answer.
    pub(crate) answer: Content,
    /// The lines of an answer that tells how far it is, where it can.
    pub(crate) progress: Option<Content>,
    /// Another answer that is no problem, by its status.
    pub(crate) also: Option<(u16, Content)>,
    pub(crate) handler: Handler,
}

type Handler = Box<dyn Fn() -> MethodRouter<App>>;

/// The names of the roles that have a permission; `[]`: no token is needed.
pub(crate) fn roles(needs: Permission) -> Vec<&'static str> {
    if needs == Permission::Open {
        return Vec::new();
    }
    Role::ALL.into_iter().filter(|role| role.has(needs)).map(Role::name).collect()
}

const PAGE: &[(&str, &str)] = &[("after", "string"), ("limit", "integer")];

const CASCADE: &[(&str, &str)] = &[("cascade", "boolean")];
const OVERWRITE: &[(&str, &str)] = &[("overwrite", "boolean")];

struct Table(Vec<Endpoint>);

impl Table {
    fn add(
        &mut self,
        (method, path): (&'static str, impl Into<Cow<'static, str>>),
        needs: Permission,
        (id, summary): (impl Into<Cow<'static, str>>, impl Into<Cow<'static, str>>),
        handler: impl Fn() -> MethodRouter<App> + 'static,
    ) -> &mut Endpoint {
        let endpoint = Endpoint {
            method,
            path: path.into(),
            needs,
            id: id.into(),
            summary: summary.into(),
            status: 200,
            query: &[],
            conditional: false,
            body: None,
            answer: Content::TEXT,
            progress: None,
            also: None,
            handler: Box::new(handler),
        };
        self.0.push(endpoint);
        let last = self.0.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it was pushed the line before")]
        &mut self.0[last]
    }
}

impl Endpoint {
    /// Whether it changes something.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.needs, Permission::Write | Permission::Tokens) && self.method != "GET"
    }

    fn query(&mut self, query: &'static [(&'static str, &'static str)]) -> &mut Endpoint {
        self.query = query;
        self
    }

    fn conditional(&mut self) -> &mut Endpoint {
        self.conditional = true;
        self
    }

    fn created(&mut self) -> &mut Endpoint {
        self.status = 201;
        self
    }

    /// The body is JSON of this type.
    fn takes<T: JsonSchema>(&mut self) -> &mut Endpoint {
        self.body = Some(Content::json::<T>());
        self
    }

    /// The body is lines of JSON, each of this type.
    fn takes_lines<T: JsonSchema>(&mut self) -> &mut Endpoint {
        self.body = Some(Content::lines::<T>());
        self
    }

    /// The body is an item's.
    fn takes_item(&mut self, kind: Kind) -> &mut Endpoint {
        self.body = Some(shapes(kind).0);
        self
    }

    /// The answer is an item's body.
    fn answers_item(&mut self, kind: Kind) -> &mut Endpoint {
        self.answer = shapes(kind).0;
        self
    }

    /// The answer is a page of items.
    fn answers_items(&mut self, kind: Kind) -> &mut Endpoint {
        self.answer = shapes(kind).1;
        self
    }

    /// The answer is JSON of this type.
    fn answers<T: JsonSchema>(&mut self) -> &mut Endpoint {
        self.answer = Content::json::<T>();
        self
    }

    /// The answer with this status is JSON of this type, and no problem.
    fn also<T: JsonSchema>(&mut self, status: u16) -> &mut Endpoint {
        self.also = Some((status, Content::json::<T>()));
        self
    }

    /// The answer may come as lines that tell how far it is, each of this type.
    fn tells<T: JsonSchema>(&mut self) -> &mut Endpoint {
        self.progress = Some(Content::lines::<T>());
        self
    }
}

/// The body of an item of this kind, and a page of such items.
fn shapes(kind: Kind) -> (Content, Content) {
    fn of<B: JsonSchema>() -> (Content, Content) {
        (Content::json::<B>(), Content::json::<api::ItemList<B>>())
    }
    match kind {
        Kind::Service => of::<ServiceSettings>(),
        Kind::Schema => of::<SchemaBody>(),
        Kind::Entity => of::<EntityBody>(),
        Kind::Role => of::<RoleBody>(),
        Kind::Member => of::<MemberBody>(),
        Kind::Policy | Kind::Template => of::<PolicyBody>(),
        Kind::Link => of::<LinkBody>(),
        Kind::Grant => of::<GrantBody>(),
        Kind::Route => of::<Route>(),
        Kind::Key => of::<api::Key>(),
        Kind::Limit => of::<Rule>(),
        Kind::Plan => of::<NamedPlan>(),
    }
}

/// The table.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let mut table = Table(Vec::new());
    open(&mut table);
    of_services(&mut table);
    for (plural, kind) in items::OF_SERVICE {
        of_items(&mut table, plural, kind);
    }
    of_keys(&mut table);
    of_requests(&mut table);
    of_directory(&mut table);
    sessions::of_tokens(&mut table);
    sessions::of_sessions(&mut table);
    of_status(&mut table);
    of_the_past(&mut table);
    of_access(&mut table);
    of_authzen(&mut table);
    table.0
}

fn open(t: &mut Table) {
    use Permission::Open;
    t.add(("GET", "/healthz"), Open, ("healthz", "liveness: the process runs"), || {
        get(status::healthz)
    });
    t.add(("GET", "/readyz"), Open, ("readyz", "readiness: whether all is there"), || {
        get(status::readyz)
    })
    .answers::<api::Readiness>()
    .also::<api::Readiness>(503);
    t.add(("GET", "/metrics"), Open, ("metrics", "metrics in Prometheus' text format"), || {
        get(status::metrics)
    });
    t.add(("GET", "/v1/openapi.json"), Open, ("openapi", "this document"), || {
        get(openapi::document)
    })
    .answer = Content::DOCUMENT;
}

fn of_services(t: &mut Table) {
    use Permission::{Read, Write};
    t.add(("GET", "/v1/services"), Read, ("listServices", "all services, with counts"), || {
        get(services::list)
    })
    .query(PAGE)
    .answers::<api::Services>();
    let one = "/v1/services/{service}";
    t.add(("GET", one), Read, ("getService", "one service, with counts and settings"), || {
        get(services::fetch)
    })
    .answers::<api::Service<ServiceSettings>>();
    t.add(("PUT", one), Write, ("putService", "create a service or replace its settings"), || {
        put(services::put)
    })
    .conditional()
    .takes_item(Kind::Service)
    .answers::<api::Changed>();
    t.add(("DELETE", one), Write, ("deleteService", "delete a service and all its items"), || {
        delete(services::delete)
    })
    .answers::<api::Changed>();
    let apply = "/v1/services/{service}/apply";
    t.add(("POST", apply), Write, ("apply", "make the service match these files"), || {
        post(services::apply)
    })
    .conditional()
    .query(&[
        ("dry_run", "boolean"),
        ("prune", "boolean"),
        ("overwrite", "boolean"),
        ("if_revision", "integer"),
        ("strict", "boolean"),
    ])
    .takes::<api::Apply>()
    .answers::<api::Applied>()
    .tells::<api::Line>();
    let export = "/v1/services/{service}/export";
    t.add(("GET", export), Read, ("export", "the files of the service's present state"), || {
        get(services::export)
    })
    .answers::<api::Export>();
    let extras = "/v1/services/{service}/extras";
    t.add(("GET", extras), Read, ("extras", "what the export leaves out"), || get(extras::fetch))
        .answers::<api::Extras<EntityBody>>();
    let entities = "/v1/services/{service}/import/entities";
    t.add(("POST", entities), Write, ("importEntities", "put many entities, one per line"), || {
        post(import::entities)
    })
    .query(OVERWRITE)
    .takes_lines::<import::Entity>()
    .answers::<api::Imported>();
    let grants = "/v1/services/{service}/import/grants";
    t.add(("POST", grants), Write, ("importGrants", "put many grants, one per line"), || {
        post(import::grants)
    })
    .query(OVERWRITE)
    .takes_lines::<import::Grant>()
    .answers::<api::Imported>();
    let told = "/v1/services/{service}/top";
    t.add(("GET", told), Read, ("top", "who makes the requests, as its gates report"), || {
        get(top::fetch)
    })
    .answers::<TopAnswer>();
    let told = "/v1/services/{service}/hour";
    t.add(("GET", told), Read, ("hour", "what happened in the last hour"), || get(hour::fetch))
        .answers::<api::ServiceHour>();
    let cedar = "/v1/services/{service}/cedar";
    let what = "all policies and templates of the service as one text";
    t.add(("GET", cedar), Read, ("getCedar", what), || get(cedar::fetch))
        .answers::<api::CedarText>();
    let what = "make the policies and templates of the service those of one text";
    t.add(("PUT", cedar), Write, ("putCedar", what), || put(cedar::put))
        .conditional()
        .query(&[("dry_run", "boolean")])
        .takes::<api::NewCedarText>()
        .answers::<api::Applied>();
    let schema = "/v1/services/{service}/schema";
    t.add(("GET", schema), Read, ("getSchema", "the service's Cedar schema"), || {
        get(services::fetch_schema)
    })
    .answers_item(Kind::Schema);
    t.add(("PUT", schema), Write, ("putSchema", "replace the schema"), || {
        put(services::put_schema)
    })
    .conditional()
    .takes_item(Kind::Schema)
    .answers::<api::Changed>();
    t.add(("DELETE", schema), Write, ("deleteSchema", "remove the schema"), || {
        delete(services::delete_schema)
    })
    .conditional()
    .answers::<api::Changed>();
}

fn of_items(t: &mut Table, plural: &'static str, kind: Kind) {
    use Permission::{Read, Write};
    let all = format!("/v1/services/{{service}}/{plural}");
    let one = format!("{all}/{{id}}");
    let noun = kind.as_str();
    let name = |verb: &str, noun: &str| {
        let mut letters = noun.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        format!("{verb}{}{}", first.unwrap_or_default(), letters.as_str())
    };
    t.add(
        ("GET", all),
        Read,
        (name("list", plural), format!("the service's {plural}, by id")),
        move || {
            get(move |State(app): State<App>, Params(service), Args(page): Args<Page>| async move {
                items::list(&app, service, kind, page).await
            })
        },
    )
    .query(PAGE)
    .answers_items(kind);
    t.add(
        ("GET", one.clone()),
        Read,
        (name("get", noun), format!("one {noun}")),
        move || {
            get(
                move |State(app): State<App>,
                      Params((service, id)): Params<(String, String)>| async move {
                    items::fetch(&app, items::key(&service, kind, &id)?).await
                },
            )
        },
    )
    .answers_item(kind);
    t.add(
        ("PUT", one.clone()),
        Write,
        (name("put", noun), format!("create or replace one {noun}")),
        move || {
            put(
                move |State(app): State<App>,
                      Extension(caller): Extension<Caller>,
                      Params((service, id)): Params<(String, String)>,
                      condition: Condition,
                      Json(body): Json<Value>| async move {
                    let key = items::key(&service, kind, &id)?;
                    items::put(&app, &caller, key, condition, body).await
                },
            )
        },
    )
    .conditional()
    .takes_item(kind)
    .answers::<api::Changed>();
    if kind == Kind::Entity {
        t.add(
            ("DELETE", one),
            Write,
            (name("delete", noun), format!("delete one {noun}")),
            move || {
                delete(
                    move |State(app): State<App>,
                          Extension(caller): Extension<Caller>,
                          Params((service, id)): Params<(String, String)>,
                          Args(cascade): Args<Cascade>,
                          condition: Condition| async move {
                        let key = items::key(&service, kind, &id)?;
                        removal::delete(&app, &caller, key, condition, cascade).await
                    },
                )
            },
        )
        .conditional()
        .query(CASCADE)
        .answers::<api::Changed>();
        return;
    }
    t.add(
        ("DELETE", one),
        Write,
        (name("delete", noun), format!("delete one {noun}")),
        move || {
            delete(
                move |State(app): State<App>,
                      Extension(caller): Extension<Caller>,
                      Params((service, id)): Params<(String, String)>,
                      condition: Condition| async move {
                    let key = items::key(&service, kind, &id)?;
                    items::delete(&app, &caller, key, condition).await
                },
            )
        },
    )
    .conditional()
    .answers::<api::Changed>();
}

fn of_keys(t: &mut Table) {
    use Permission::{Read, Write};
    let all = "/v1/services/{service}/keys";
    let one = "/v1/services/{service}/keys/{prefix}";
    t.add(("GET", all), Read, ("listKeys", "the service's API keys, without hashes"), || {
        get(keys::list)
    })
    .query(PAGE)
    .answers::<api::Keys>();
    t.add(("POST", all), Write, ("createKey", "make an API key; it is shown once"), || {
        post(keys::create)
    })
    .created()
    .takes::<api::NewKey>()
    .answers::<api::MadeKey>();
    t.add(("GET", one), Read, ("getKey", "one API key"), || get(keys::fetch))
        .answers_item(Kind::Key);
    t.add(("DELETE", one), Write, ("deleteKey", "revoke an API key"), || delete(keys::delete))
        .conditional()
        .answers::<api::Changed>();
    let rotate = "/v1/services/{service}/keys/{prefix}/rotate";
    t.add(("POST", rotate), Write, ("rotateKey", "make a new key and expire the old one"), || {
        post(keys::rotate)
    })
    .created()
    .takes::<api::Rotate>()
    .answers::<api::MadeKey>();
}

fn of_requests(t: &mut Table) {
    use Permission::{Read, Write};
    let all = "/v1/services/{service}/requests";
    t.add(("GET", all), Read, ("listRequests", "requests for access to the service"), || {
        get(requests::list)
    })
    .query(&[("state", "string"), ("after", "string"), ("limit", "integer")])
    .answers::<api::AccessRequests>();
    let one = "/v1/services/{service}/requests/{id}";
    t.add(("GET", one), Read, ("getRequest", "one request for access"), || get(requests::fetch))
        .answers::<api::AccessRequest>();
    let approve = "/v1/services/{service}/requests/{id}/approve";
    t.add(("POST", approve), Write, ("approveRequest", "let the asker fetch a key"), || {
        post(requests::approve)
    })
    .takes::<api::ApproveRequest>()
    .answers::<api::AccessRequest>();
    let decline = "/v1/services/{service}/requests/{id}/decline";
    t.add(
        ("POST", decline),
        Write,
        ("declineRequest", "tell the asker that it gets no key"),
        || post(requests::decline),
    )
    .answers::<api::AccessRequest>();
}

fn of_directory(t: &mut Table) {
    use Permission::{Read, Write};
    for (all, one, plural, noun, kind) in [
        ("/v1/entities", "/v1/entities/{uid}", "entities", "Entity", Kind::Entity),
        ("/v1/roles", "/v1/roles/{uid}", "roles", "Role", Kind::Role),
    ] {
        t.add(
            ("GET", all),
            Read,
            (format!("listDirectory{noun}"), format!("the directory's {plural}, by id")),
            move || {
                get(move |State(app): State<App>, Args(page): Args<Page>| async move {
                    items::list(&app, String::new(), kind, page).await
                })
            },
        )
        .query(PAGE)
        .answers_items(kind);
        t.add(
            ("GET", one),
            Read,
            (format!("getDirectory{noun}"), format!("one {kind} of the directory")),
            move || {
                get(move |State(app): State<App>, Params(uid): Params<String>| async move {
                    items::fetch(&app, items::key("", kind, &uid)?).await
                })
            },
        )
        .answers_item(kind);
        t.add(
            ("PUT", one),
            Write,
            (format!("putDirectory{noun}"), format!("create or replace one {kind}")),
            move || {
                put(
                    move |State(app): State<App>,
                          Extension(caller): Extension<Caller>,
                          Params(uid): Params<String>,
                          condition: Condition,
                          Json(body): Json<Value>| async move {
                        let key = items::key("", kind, &uid)?;
                        items::put(&app, &caller, key, condition, body).await
                    },
                )
            },
        )
        .conditional()
        .takes_item(kind)
        .answers::<api::Changed>();
        t.add(
            ("DELETE", one),
            Write,
            (format!("deleteDirectory{noun}"), format!("delete one {kind}")),
            move || {
                delete(
                    move |State(app): State<App>,
                          Extension(caller): Extension<Caller>,
                          Params(uid): Params<String>,
                          Args(cascade): Args<Cascade>,
                          condition: Condition| async move {
                        let key = items::key("", kind, &uid)?;
                        removal::delete(&app, &caller, key, condition, cascade).await
                    },
                )
            },
        )
        .conditional()
        .query(CASCADE)
        .answers::<api::Changed>();
    }
    let entities = "/v1/import/entities";
    let what = ("importDirectoryEntities", "put many entities into the directory, one per line");
    t.add(("POST", entities), Write, what, || post(import::directory_entities))
        .query(OVERWRITE)
        .takes_lines::<import::Entity>()
        .answers::<api::Imported>();
    let what = ("importMembers", "put many members into roles, one per line");
    t.add(("POST", "/v1/import/members"), Write, what, || post(import::members))
        .query(OVERWRITE)
        .takes_lines::<api::Membership>()
        .answers::<api::Imported>();
    t.add(("GET", "/v1/members"), Read, ("listMembers", "who is in which role"), || {
        get(directory::members)
    })
    .query(&[("role", "string"), ("member", "string"), ("after", "string"), ("limit", "integer")])
    .answers::<api::Members>();
    t.add(("POST", "/v1/roles/assign"), Write, ("assignRole", "put a member into a role"), || {
        post(directory::assign)
    })
    .query(&[("must_exist", "boolean")])
    .takes::<api::Membership>()
    .answers::<api::Changed>();
    t.add(
        ("POST", "/v1/roles/revoke"),
        Write,
        ("revokeRole", "take a member out of a role"),
        || post(directory::revoke),
    )
    .takes::<api::MembershipName>()
    .answers::<api::Changed>();
}

fn of_status(t: &mut Table) {
    use Permission::{Decide, Known, Read, Write};
    t.add(("GET", "/v1/revision"), Known, ("revision", "the newest revision"), || {
        get(status::revision)
    })
    .answers::<api::Revision>();
    t.add(("GET", "/v1/status"), Read, ("status", "center and gates, and what is wrong"), || {
        get(status::status)
    })
    .answers::<api::Status>();
    t.add(("GET", "/v1/audit"), Read, ("audit", "who changed what"), || get(audit::audit))
        .query(&[
            ("newest", "boolean"),
            ("after", "integer"),
            ("before", "integer"),
            ("limit", "integer"),
            ("actor", "string"),
            ("action", "string"),
            ("service", "string"),
            ("kind", "string"),
            ("id", "string"),
            ("since_ms", "integer"),
            ("until_ms", "integer"),
        ])
        .answers::<api::Audit>();
    t.add(("GET", "/v1/audit/log"), Read, ("auditLog", "the audit log as it is, sealed"), || {
        get(audit::log)
    })
    .query(&[("after", "integer"), ("limit", "integer")])
    .answer = Content::lines::<api::AuditLogLine>();
    t.add(
        ("GET", "/v1/log-keys"),
        Read,
        ("logKeys", "the keys by which access logs of gates are verified"),
        || get(logs::keys),
    )
    .answers::<api::LogKeys>();
    // It waits its turn among the writes, so it is for those who write.
    t.add(("GET", "/v1/writes/{write_id}"), Write, ("write", "what became of a write"), || {
        get(writes::fetch)
    })
    .answers::<api::Written>();
    t.add(("GET", "/v1/followers"), Read, ("followers", "who follows, and how far"), || {
        get(status::followers)
    })
    .answers::<api::Followers>();
    t.add(("POST", "/v1/check"), Decide, ("check", "decide, and say why"), || post(check::check))
        .takes::<api::Question>()
        .answers::<api::Answer>();
}

fn of_the_past(t: &mut Table) {
    use Permission::{Read, Write};
    t.add(("GET", "/v1/history"), Read, ("history", "what each revision changed"), || {
        get(past::history)
    })
    .query(&[
        ("service", "string"),
        ("kind", "string"),
        ("id", "string"),
        ("actor", "string"),
        ("before", "integer"),
        ("limit", "integer"),
    ])
    .answers::<api::History>();
    let one = "/v1/revisions/{revision}";
    t.add(("GET", one), Read, ("showRevision", "what one revision changed"), || get(past::show))
        .query(&[("after", "integer"), ("limit", "integer")])
        .answers::<api::RevisionShown>();
    t.add(("GET", "/v1/diff"), Read, ("diff", "how two states differ"), || get(past::compare))
        .query(&[
            ("from", "string"),
            ("to", "string"),
            ("service", "string"),
            ("after", "integer"),
            ("limit", "integer"),
        ])
        .answers::<api::StateDiff>();
    let what = ("rollback", "make a new revision with what an old one had");
    t.add(("POST", "/v1/rollback"), Write, what, || post(rollback::rollback))
        .conditional()
        .query(&[("dry_run", "boolean"), ("if_revision", "integer")])
        .takes::<api::Rollback>()
        .answers::<api::RolledBack>();
}

fn of_access(t: &mut Table) {
    use Permission::Read;
    let what = ("accessToResource", "who may do what on a resource");
    t.add(("GET", "/v1/access/resource"), Read, what, || get(who::of_resource))
        .query(&[
            ("resource", "string"),
            ("action", "string"),
            ("type", "string"),
            ("service", "string"),
            ("as_of", "string"),
            ("after", "string"),
            ("limit", "integer"),
        ])
        .answers::<api::ResourceAccess>();
    let what = ("accessOfPrincipal", "which policies apply to a principal");
    t.add(("GET", "/v1/access/principal"), Read, what, || get(who::of_principal))
        .query(&[
            ("principal", "string"),
            ("action", "string"),
            ("service", "string"),
            ("as_of", "string"),
            ("after", "string"),
            ("limit", "integer"),
        ])
        .answers::<api::PrincipalAccess>();
    let what = ("accessOfRole", "who is in a role, and how");
    t.add(("GET", "/v1/access/role"), Read, what, || get(who::of_role))
        .query(&[
            ("role", "string"),
            ("service", "string"),
            ("as_of", "string"),
            ("after", "string"),
            ("limit", "integer"),
        ])
        .answers::<api::RoleAccess>();
}

fn of_authzen(t: &mut Table) {
    use Permission::{Decide, Open};
    t.add(
        ("GET", "/s/{service}/.well-known/jwks.json"),
        Open,
        ("assertionKeys", "the keys by which upstreams verify what gates assert"),
        || get(assertions::jwks),
    )
    .answers::<assertions::KeySet>();
    t.add(
        ("GET", "/.well-known/authzen-configuration"),
        Open,
        ("authzenConfiguration", "AuthZEN metadata"),
        || get(authzen::configuration),
    )
    .answers::<keepgate_policy::authzen::Metadata>();
    t.add(
        ("GET", "/.well-known/authzen-configuration/s/{service}"),
        Open,
        ("authzenServiceConfiguration", "AuthZEN metadata of one service"),
        || get(authzen::service_configuration),
    )
    .answers::<keepgate_policy::authzen::Metadata>();
    t.add(
        ("POST", "/access/v1/evaluation"),
        Decide,
        ("evaluation", "AuthZEN Access Evaluation"),
        || post(authzen::evaluation),
    )
    .takes::<authzen_shapes::Asked>()
    .answers::<authzen_shapes::Decided>();
    t.add(
        ("POST", "/access/v1/evaluations"),
        Decide,
        ("evaluations", "AuthZEN Access Evaluations"),
        || post(authzen::evaluations),
    )
    .takes::<authzen_shapes::AskedMany>()
    .answers::<authzen_shapes::DecidedMany>();
    t.add(
        ("POST", "/s/{service}/access/v1/evaluation"),
        Decide,
        ("serviceEvaluation", "AuthZEN Access Evaluation by one service"),
        || post(authzen::service_evaluation),
    )
    .takes::<authzen_shapes::Asked>()
    .answers::<authzen_shapes::Decided>();
    t.add(
        ("POST", "/s/{service}/access/v1/evaluations"),
        Decide,
        ("serviceEvaluations", "AuthZEN Access Evaluations by one service"),
        || post(authzen::service_evaluations),
    )
    .takes::<authzen_shapes::AskedMany>()
    .answers::<authzen_shapes::DecidedMany>();
}
