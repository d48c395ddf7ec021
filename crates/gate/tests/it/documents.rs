//! Real OpenAPI documents, as their authors publish them: the requests of their users are routed, with
//! the servers' base paths. `scripts/fetch-fixtures` brings the documents.

use std::path::Path;

use keepgate_policy::openapi;
use keepgate_policy::route::Route;

use super::support::{Draft, Echo, TestGate, ask, skip};

/// None: it is not here, and the test may be left out.
fn document(name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/documents");
    let text = std::fs::read_to_string(path.join(name)).ok();
    if text.is_none() {
        skip("target/fixtures/documents is missing; run scripts/fetch-fixtures");
    }
    text
}

/// Okta's document has two paths with a query, which OpenAPI does not allow. Both are named, and nothing
/// else is in the way.
fn without_queries(text: &str) -> String {
    let problems = openapi::load(text).unwrap_err();
    let told: Vec<_> = problems.iter().map(|problem| problem.line).collect();
    // The lines of their operations, which follow.
    let lines = (2..).zip(text.lines()).filter(|(_, line)| line.contains("?tempPassword="));
    assert_eq!(told, lines.map(|(number, _)| Some(number)).collect::<Vec<_>>());
    assert_eq!(told.len(), 2);
    text.replace("?tempPassword=", "/")
}

fn routes(text: &str) -> Vec<Route> {
    let placed = openapi::load(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    placed.into_iter().map(|placed| placed.route).collect()
}

/// A request of a document's user, and the route that it is meant for.
struct Case {
    document: &'static str,
    operations: usize,
    method: &'static str,
    path: &'static str,
    template: &'static str,
    /// What real requests do not have, or have too little.
    missed: &'static str,
}

const CASES: [Case; 8] = [
    Case {
        document: "github.json",
        operations: 1_223,
        method: "GET",
        path: "/repos/octocat/hello-world/contents/src",
        template: "/repos/{owner}/{repo}/contents/{path}",
        missed: "/api/repos/octocat/hello-world/contents/src",
    },
    Case {
        document: "petstore.json",
        operations: 20,
        method: "GET",
        path: "/v2/pet/7",
        template: "/v2/pet/{petId}",
        missed: "/pet/7",
    },
    Case {
        document: "petstore-2.json",
        operations: 20,
        method: "POST",
        path: "/v2/pet/7/uploadImage",
        template: "/v2/pet/{petId}/uploadImage",
        missed: "/pet/7/uploadImage",
    },
    Case {
        document: "star-trek.json",
        operations: 120,
        method: "GET",
        path: "/api/v1/rest/animal/search?pageSize=10",
        template: "/api/v1/rest/animal/search",
        missed: "/animal/search",
    },
    Case {
        document: "uspto.json",
        operations: 3,
        method: "GET",
        path: "/ds-api/oa_citations/v1/fields",
        template: "/ds-api/{dataset}/{version}/fields",
        missed: "/oa_citations/v1/fields",
    },
    Case {
        document: "train-travel.yaml",
        operations: 7,
        method: "DELETE",
        path: "/bookings/1725ff48-45ab-4bb5-9d02-88745177dedb",
        template: "/bookings/{bookingId}",
        missed: "/v1/bookings/1725ff48-45ab-4bb5-9d02-88745177dedb",
    },
    Case {
        document: "blockfrost.yaml",
        operations: 129,
        method: "GET",
        path: "/api/v0/blocks/latest/txs",
        template: "/api/v0/blocks/latest/txs",
        missed: "/blocks/latest/txs",
    },
    Case {
        document: "okta.yaml",
        operations: 340,
        method: "PUT",
        path: "/api/v1/groups/00g1/users/00u1",
        template: "/api/v1/groups/{groupId}/users/{userId}",
        missed: "/groups/00g1/users/00u1",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_real_documents_are_routed() {
    let echo = Echo::start().await;
    for case in CASES {
        let Case { document: name, operations, method, path, template, missed } = case;
        let Some(mut text) = document(name) else { return };
        if name == "blockfrost.yaml" {
            // Three of its servers have a base path, and one for development has none.
            let problems = openapi::load(&text).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:#?}");
            let told = problems[0].to_string();
            let advice = "`x-keepgate-base-path: /api/v0`";
            assert!(told.contains("`/` (line 346)") && told.contains(advice), "{told}");
            text.push_str("\nx-keepgate-base-path: /api/v0\n");
        }
        if name == "okta.yaml" {
            text = without_queries(&text);
        }
        let mut draft = Draft::orders();
        draft.routes = routes(&text);
        assert_eq!(draft.routes.len(), operations, "{name}");
        // Only this one route is permitted: 200 says that the request was routed to it.
        let policy = format!(
            "permit (principal, action == Action::\"{method}\", resource == route::\"{template}\");"
        );
        draft.policies = vec![("one".to_owned(), policy)];
        let gate = TestGate::start(&draft, &echo.url).await;
        let user = [("x-user", "alice")];
        let answer = ask(gate.addr, method, path, &user, "").await;
        assert_eq!(answer.status, 200, "{name}: {method} {path}: {}", answer.body);
        assert!(answer.body.contains(&format!("{method} {path}\n")), "{name}: {}", answer.body);
        ask(gate.addr, method, missed, &user, "").await.is_problem(404, "no-route");
        gate.stop().await;
    }
}
