//! Identities of a provider: what a token's claims open, with no user in the directory, and every way in
//! which they may not.

use keepgate_client::pool::Protocol;
use keepgate_policy::model::GrantBody;
use keepgate_policy::service::ServiceSettings;
use serde_json::{Map, Value, json};

use super::identify::{Signer, now};
use super::issuer::TestIssuer;
use super::revoke::{event_stream_of, events, gate_of};
use super::support::{
    Answer, Draft, Echo, TestGate, eventually, get, member, read_to_close, route, uid,
};

/// Routes with a grant to a role each, and nobody in the directory.
pub(crate) fn draft(identify: &Value) -> Draft {
    let mut draft = Draft::orders();
    draft.settings = serde_json::from_value::<ServiceSettings>(json!({
        "name": "orders", "limits": {"default": "off"}, "identify": identify,
    }))
    .unwrap();
    draft.policies.clear();
    draft.routes = ["/admin", "/client", "/group", "/scope", "/api", "/mine", "/any"]
        .map(|path| route("GET", path))
        .to_vec();
    draft
}

fn grant(draft: &mut Draft, role: &str, path: &str) {
    let grant = GrantBody {
        principal: uid("role", role),
        actions: Vec::new(),
        resource: Some(uid("route", path)),
        until_unix_s: None,
    };
    draft.grants.push((format!("{role} {path}"), grant));
}

pub(crate) fn claims(issuer: &TestIssuer, more: &Value) -> Value {
    let mut claims =
        json!({"iss": issuer.url, "aud": "orders", "sub": "alice", "exp": now() + 600});
    let more = more.as_object().cloned().unwrap_or_default();
    claims.as_object_mut().unwrap().extend(more);
    claims
}

pub(crate) async fn shown(gate: &TestGate, path: &str, token: &str) -> Answer {
    get(gate.addr, path, &[("Authorization", &format!("Bearer {token}"))]).await
}

/// What each path answers to a token of these claims.
async fn statuses(gate: &TestGate, paths: &[&str], token: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in paths {
        statuses.push(shown(gate, path, token).await.status);
    }
    statuses
}

/// Tokens of three providers' shapes open what grants to their roles say, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_each_provider_open_what_their_roles_may() {
    let keycloak = json!({
        "typ": "Bearer", "azp": "shop", "preferred_username": "alice", "scope": "openid email",
        "realm_access": {"roles": ["offline_access", "admin"]},
        "resource_access": {"shop": {"roles": ["viewer"]}, "account": {"roles": ["manage-account"]}},
        "groups": ["/shop/clerks"], "aud": ["orders", "account"],
    });
    let entra = json!({
        "tid": "9188040d-6c67-4c5b-b112-36a304b66dad", "oid": "oid-of-alice", "ver": "2.0",
        "roles": ["Orders.Admin"], "groups": ["2b5f2c5f-0000-0000-0000-000000000001"],
        "scp": "access_as_user", "wids": [], "sub": "pairwise",
    });
    let okta = json!({
        "ver": 1, "cid": "client", "uid": "00u1", "scp": ["openid", "orders:read"],
        "groups": ["Everyone", "Order Clerks"],
    });
    let auth0 = json!({
        "scope": "openid orders:read", "permissions": ["read:orders"],
        "https://shop.example/roles": ["admin"],
    });
    // Settings, claims, which role opens which path, and what is open.
    let all = ["/admin", "/client", "/group", "/scope", "/any"];
    let table = [
        (
            "keycloak",
            json!({"roles_from": ["realm_access.roles", "resource_access.shop.roles", "groups"]}),
            &keycloak,
            [
                ("admin", "/admin"),
                ("viewer", "/client"),
                ("/shop/clerks", "/group"),
                ("email", "/scope"),
            ],
            [200, 200, 200, 403, 403],
            "user::\"alice\"",
        ),
        (
            "keycloak, another client's roles",
            json!({"roles_from": ["resource_access.account.roles"]}),
            &keycloak,
            [
                ("admin", "/admin"),
                ("viewer", "/client"),
                ("/shop/clerks", "/group"),
                ("email", "/scope"),
            ],
            [403, 403, 403, 403, 403],
            "user::\"alice\"",
        ),
        (
            "entra",
            json!({"roles_from": ["roles", "groups", "scp"], "principal_claim": "oid"}),
            &entra,
            [
                ("Orders.Admin", "/admin"),
                ("Orders.Viewer", "/client"),
                ("2b5f2c5f-0000-0000-0000-000000000001", "/group"),
                ("access_as_user", "/scope"),
            ],
            [200, 403, 200, 200, 403],
            "user::\"oid-of-alice\"",
        ),
        (
            "okta",
            json!({"roles_from": ["groups", "scp"]}),
            &okta,
            [
                ("Admins", "/admin"),
                ("Everyone", "/client"),
                ("Order Clerks", "/group"),
                ("orders:read", "/scope"),
            ],
            [403, 200, 200, 200, 403],
            "user::\"alice\"",
        ),
        (
            "auth0",
            json!({"roles_from": ["https://shop.example/roles", "permissions", "scope"]}),
            &auth0,
            [
                ("admin", "/admin"),
                ("read:orders", "/client"),
                ("Order", "/group"),
                ("orders:read", "/scope"),
            ],
            [200, 200, 403, 200, 403],
            "user::\"alice\"",
        ),
        (
            "with a prefix",
            json!({"roles_from": ["groups"], "role_prefix": "okta:"}),
            &okta,
            [
                ("Everyone", "/admin"),
                ("okta:Everyone", "/client"),
                ("okta:", "/group"),
                ("okta", "/scope"),
            ],
            [403, 200, 403, 403, 403],
            "user::\"alice\"",
        ),
        (
            "roles are not asked for",
            json!({}),
            &keycloak,
            [
                ("admin", "/admin"),
                ("viewer", "/client"),
                ("/shop/clerks", "/group"),
                ("email", "/scope"),
            ],
            [403, 403, 403, 403, 403],
            "user::\"alice\"",
        ),
    ];
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    for (name, settings, shape, grants, expected, principal) in table {
        let mut jwt = json!({"issuer": issuer.url, "audience": "orders"});
        jwt.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let mut draft = draft(&json!({"jwt": [jwt]}));
        for (role, path) in grants {
            grant(&mut draft, role, path);
        }
        let gate = TestGate::start(&draft, &echo.url).await;
        let token = signer.token("k", &claims(&issuer, shape));
        assert_eq!(statuses(&gate, &all, &token).await, expected, "{name}");
        // The same from the cache.
        assert_eq!(statuses(&gate, &all, &token).await, expected, "{name}, again");
        if let Some(open) = expected.iter().position(|status| *status == 200) {
            let answer = shown(&gate, all[open], &token).await;
            let told = format!("keepgate-principal: {principal}\n");
            assert!(answer.body.contains(&told), "{name}: {answer:?}");
        }
        gate.stop().await;
    }
}

/// A role of a token is what any other parent is: in conditions, in roles that it is a member of, for a
/// forbid.
#[tokio::test(flavor = "multi_thread")]
async fn roles_of_a_token_are_roles_everywhere() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let jwt = json!({"issuer": issuer.url, "audience": "orders", "roles_from": ["groups"], "role_prefix": "kc:"});
    let mut draft = draft(&json!({"jwt": [jwt]}));
    draft.members = vec![member(uid("role", "kc:ops"), uid("role", "staff"))];
    grant(&mut draft, "staff", "/admin");
    let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    draft.policies = vec![
        policy(
            "when",
            "permit (principal, action, resource == route::\"/client\") when { principal in role::\"kc:nobody stores it\" };",
        ),
        policy("all", "permit (principal, action, resource == route::\"/group\");"),
        policy(
            "not",
            "forbid (principal in role::\"kc:barred\", action, resource == route::\"/group\");",
        ),
    ];
    let gate = TestGate::start(&draft, &echo.url).await;
    let paths = ["/admin", "/client", "/group"];
    for (groups, expected) in [
        (json!(["ops"]), [200, 403, 200]),
        (json!(["nobody stores it"]), [403, 200, 200]),
        (json!(["ops", "barred"]), [200, 403, 403]),
        (json!(["staff"]), [403, 403, 200]),
        (json!([]), [403, 403, 200]),
        (json!(null), [403, 403, 200]),
    ] {
        let token = signer.token("k", &claims(&issuer, &json!({"groups": groups})));
        assert_eq!(statuses(&gate, &paths, &token).await, expected, "{groups}");
    }
    gate.stop().await;
}

/// What cannot be told of a token is 503, never a denial, also from the cache; who it is of holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_503() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let jwt = json!({
        "issuer": issuer.url, "audience": "orders", "claims": true,
        "roles_from": ["groups", "roles"],
        "attributes_from": {"department": "dept"}, "claim_headers": {"x-user-email": "email"},
    });
    let mut draft = draft(&json!({"jwt": [jwt]}));
    grant(&mut draft, "ops", "/any");
    let gate = TestGate::start(&draft, &echo.url).await;
    let fine = signer.token("k", &claims(&issuer, &json!({"groups": ["ops"], "email": "a@b"})));
    assert_eq!(shown(&gate, "/any", &fine).await.status, 200);
    let many: Vec<String> = (0..1_001).map(|n| format!("{n}")).collect();
    for (reason, more) in [
        (
            "claims_left_out",
            json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {}}}),
        ),
        ("claims_left_out", json!({"hasgroups": true})),
        ("claims_left_out", json!({"groups": ["ops"], "_claim_names": {"dept": "src1"}})),
        ("claims", json!({"groups": {"ops": true}})),
        ("claims", json!({"groups": ["ops", 7]})),
        ("claims", json!({"groups": many})),
        ("claims", json!({"groups": ["ops"], "level": 1.23456})),
        (
            "claims",
            json!({"groups": ["ops"], "dept": {"__entity": {"type": "role", "id": "admin"}}}),
        ),
        ("claims", json!({"groups": ["ops"], "x": {"__extn": {"fn": "ip", "arg": "127.0.0.1"}}})),
        ("claims", json!({"groups": ["ops"], "email": "a\r\nx-admin: 1"})),
    ] {
        let token = signer.token("k", &claims(&issuer, &more));
        for again in ["first", "again"] {
            let json = shown(&gate, "/any", &token).await.is_problem(503, "no-decision");
            assert_eq!(json["reason"], reason, "{more}, {again}: {json}");
        }
    }
    // An overage of what is not read is no matter.
    let other = json!({"groups": ["ops"], "_claim_names": {"photos": "src1"}});
    assert_eq!(
        shown(&gate, "/any", &signer.token("k", &claims(&issuer, &other))).await.status,
        200
    );
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_context_attributes_and_headers() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let jwt = json!({
        "issuer": issuer.url, "audience": "orders", "claims": true,
        "attributes_from": {"department": "org.dept"},
        "claim_headers": {"X-User-Email": "email", "x-user-groups": "groups"},
    });
    let mut draft = draft(&json!({
        "jwt": [jwt],
        "trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8"]},
    }));
    let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    draft.policies = vec![
        policy(
            "mfa",
            "permit (principal, action, resource == route::\"/admin\") when { context has claims && context.claims has amr && context.claims.amr.contains(\"mfa\") && context.claims.level > 2 };",
        ),
        policy(
            "dept",
            "permit (principal, action, resource == route::\"/client\") when { principal has department && principal.department == \"sales\" };",
        ),
        policy(
            "record",
            "permit (principal, action, resource == route::\"/group\") when { context has claims && context.claims.org.dept like \"sal*\" && context.claims.email_verified };",
        ),
        policy("any", "permit (principal, action, resource == route::\"/any\");"),
    ];
    let gate = TestGate::start(&draft, &echo.url).await;
    let paths = ["/admin", "/client", "/group"];
    let full = json!({
        "amr": ["pwd", "mfa"], "level": 3, "org": {"dept": "sales"}, "email_verified": true,
        "email": "zoë@shop.example", "groups": ["a", "b"], "nothing": null,
    });
    let token = signer.token("k", &claims(&issuer, &full));
    assert_eq!(statuses(&gate, &paths, &token).await, [200, 200, 200]);
    let less =
        json!({"amr": ["pwd"], "level": 3, "org": {"dept": "legal"}, "email_verified": true});
    let token_of_less = signer.token("k", &claims(&issuer, &less));
    assert_eq!(statuses(&gate, &paths, &token_of_less).await, [403, 403, 403]);

    // Headers: what the token says, and nothing that the caller sends, however it spells it.
    let bearer = format!("Bearer {token}");
    let forged = [
        ("Authorization", bearer.as_str()),
        ("X-User-Email", "root@shop.example"),
        ("x_user_email", "root@shop.example"),
        ("X-User.Email", "root@shop.example"),
        ("x-user-groups", "admins"),
        ("Connection", "x-user-groups"),
    ];
    let answer = get(gate.addr, "/any", &forged).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("x-user-email: zoë@shop.example\n"), "{answer:?}");
    assert!(answer.body.contains("x-user-groups: a,b\n"), "{answer:?}");
    assert!(!answer.body.contains("root@") && !answer.body.contains("admins"), "{answer:?}");
    // Also where the token has no such claim, and where another way identified the caller.
    let bearer = format!("Bearer {token_of_less}");
    for way in [("Authorization", bearer.as_str()), ("x-user", "bob")] {
        let headers = [way, forged[1], forged[2], forged[3], forged[4]];
        let answer = get(gate.addr, "/any", &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains("root@") && !answer.body.contains("admins"), "{answer:?}");
    }
    // Who came another way has no claims.
    assert_eq!(get(gate.addr, "/admin", &[("x-user", "bob")]).await.status, 403);
    gate.stop().await;
}

/// An open exchange is decided again with the roles, claims and attributes that its token gave it.
#[tokio::test(flavor = "multi_thread")]
async fn open_exchanges_keep_what_their_token_said() {
    let upstream = events().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let jwt = json!({
        "issuer": issuer.url, "audience": "orders", "roles_from": ["groups"], "claims": true,
        "attributes_from": {"department": "dept"},
    });
    let mut draft = Draft { settings: draft(&json!({"jwt": [jwt]})).settings, ..Draft::orders() };
    let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    draft.policies = vec![policy(
        "ops",
        "permit (principal in role::\"ops\", action, resource in route::\"/orders\")
         when { context.claims.level > 2 && principal.department == \"sales\" };",
    )];
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let says = |groups: Value| json!({"groups": groups, "level": 3, "dept": "sales"});
    let stream = async |groups: Value| {
        let token = signer.token("k", &claims(&issuer, &says(groups)));
        event_stream_of(&gate, "Authorization", &format!("Bearer {token}")).await
    };
    let mut barred = stream(json!(["ops", "temps"])).await;
    let stays = stream(json!(["ops"])).await;
    draft
        .policies
        .push(policy("temps", "forbid (principal in role::\"temps\", action, resource);"));
    draft.revision += 1;
    gate.source.replace(draft.world());
    read_to_close(&mut barred).await;
    eventually("both were decided again", async || {
        gate.metric("keepgate_gate_exchanges_redecided_total").await >= 2.0
    })
    .await;
    assert_eq!(gate.metric("keepgate_gate_exchanges_open").await, 1.0, "the other goes on");
    drop(stays);
    gate.stop().await;
}

/// With a schema: a claim has the type that the action's context declares, what is not declared is not
/// there, and what does not fit is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn claims_have_the_types_of_the_schema() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let mut draft = draft(&json!({"jwt": [{
        "issuer": issuer.url, "audience": "orders", "claims": true, "roles_from": ["groups"],
        "attributes_from": {"department": "dept", "undeclared": "dept"},
    }]}));
    draft.schema = Some(
        "entity role in [role]; entity user in [role] { department?: String }; entity route in [route];
         action GET appliesTo { principal: [user], resource: [route], context: {
             method: String, path: String, host: String, ip?: ipaddr,
             claims?: { level?: Long, manager?: user, amr?: Set<String> } } };"
            .to_owned(),
    );
    let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    draft.policies = vec![
        policy(
            "level",
            "permit (principal, action, resource == route::\"/admin\") when { context has claims && context.claims has level && context.claims.level > 2 };",
        ),
        policy(
            "manager",
            "permit (principal, action, resource == route::\"/client\") when { context has claims && context.claims has manager && context.claims.manager == user::\"bob\" };",
        ),
        policy(
            "dept",
            "permit (principal in role::\"ops\", action, resource == route::\"/group\") when { principal has department && principal.department == \"sales\" };",
        ),
    ];
    let gate = TestGate::start(&draft, &echo.url).await;
    let paths = ["/admin", "/client", "/group"];
    for (more, expected) in [
        (
            json!({"level": 3, "manager": {"type": "user", "id": "bob"}, "groups": ["ops"], "dept": "sales"}),
            [200, 200, 200],
        ),
        (json!({"level": 1, "groups": ["ops"], "unknown": {"x": 1.5}}), [403, 403, 403]),
        (json!({"level": "3"}), [503, 503, 503]),
        (json!({"manager": {"type": "role", "id": "admin"}}), [503, 503, 503]),
        (json!({"dept": 7}), [503, 503, 503]),
    ] {
        let token = signer.token("k", &claims(&issuer, &more));
        assert_eq!(statuses(&gate, &paths, &token).await, expected, "{more}");
    }
    gate.stop().await;
}

/// The settings that `apply` reads: a prefix where there are several issuers.
#[test]
fn several_issuers_need_a_prefix_each() {
    let read = |jwt: &[Value]| {
        let settings = json!({"name": "orders", "identify": {"jwt": jwt}});
        serde_json::from_value::<ServiceSettings>(settings).map(|_| ()).map_err(|e| e.to_string())
    };
    let of = |n: usize, prefix: &str| {
        let mut jwt = Map::new();
        jwt.insert("issuer".to_owned(), json!(format!("https://id{n}.example")));
        jwt.insert("audience".to_owned(), json!("orders"));
        jwt.insert("roles_from".to_owned(), json!(["groups"]));
        if !prefix.is_empty() {
            jwt.insert("role_prefix".to_owned(), json!(prefix));
        }
        Value::Object(jwt)
    };
    assert_eq!(read(&[of(1, "")]), Ok(()));
    assert_eq!(read(&[of(1, "a:"), of(2, "b:")]), Ok(()));
    for bad in [
        [of(1, ""), of(2, "")],
        [of(1, "a:"), of(2, "")],
        [of(1, "a"), of(2, "ab")],
        [of(1, "a:"), of(2, "a:")],
    ] {
        let error = read(&bad).unwrap_err();
        assert!(error.contains("role_prefix"), "{error}");
    }
}
