//! Templates, and the router against a matcher that is too simple to be wrong.

use expect_test::{Expect, expect};
use keepgate_policy::route::{ResourceRule, Route, Segment, Template};
use keepgate_policy::router::{Matched, Router};
use proptest::prelude::*;

fn template(path: &str) -> Result<Template, String> {
    path.parse::<Template>().map_err(|error| error.to_string())
}

#[track_caller]
fn refused(path: &str, expected: Expect) {
    expected.assert_eq(&template(path).unwrap_err());
}

#[test]
fn templates_that_cannot_be_meant_are_refused() {
    refused("orders", expect!["`orders` is not a path template: it must start with `/`"]);
    refused(
        "/a//b",
        expect![
            "`/a//b` is not a path template: a segment is empty; the normal form of `//` is `/`"
        ],
    );
    refused(
        "/a/../b",
        expect!["`/a/../b` is not a path template: `..` never occurs in a normal form"],
    );
    refused("/a b", expect!["`/a b` is not a path template: ` ` must be written `%20`"]);
    refused(
        "/caf\u{e9}",
        expect!["`/café` is not a path template: characters beyond ASCII must be percent-encoded"],
    );
    refused(
        "/%7euser",
        expect![
            "`/%7euser` is not a path template: a `%` is followed by two hexadecimal digits in capitals"
        ],
    );
    refused(
        "/%7Euser",
        expect!["`/%7Euser` is not a path template: `%7E` is written `~` in the normal form"],
    );
    refused(
        "/a?b=c",
        expect!["`/a?b=c` is not a path template: a path has no query or fragment; remove it"],
    );
    refused(
        "/{a}/{a}",
        expect!["`/{a}/{a}` is not a path template: the parameter `a` occurs twice"],
    );
    refused("/{a", expect!["`/{a` is not a path template: a `{` is not closed"]);
    refused("/a}", expect!["`/a}` is not a path template: a `}` is not opened"]);
    refused("/{}", expect!["`/{}` is not a path template: `` cannot name a parameter"]);
    refused(
        "/{a}{b}",
        expect![
            "`/{a}{b}` is not a path template: nothing separates `{a}` from the next parameter"
        ],
    );
    refused(
        "/{*rest}/a",
        expect![
            "`/{*rest}/a` is not a path template: `{*rest}` takes all the rest, so it must be the last segment"
        ],
    );
    refused(
        "/x{*rest}",
        expect!["`/x{*rest}` is not a path template: `*rest` cannot name a parameter"],
    );
    refused(
        &"/a".repeat(65),
        expect![
            "`/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a` is not a path template: it has 65 segments, at most 64"
        ],
    );
    let long = template(&format!("/{}", "a".repeat(2048))).unwrap_err();
    assert!(long.ends_with("a` is not a path template: it has 2049 bytes, at most 2048"), "{long}");
    assert!(long.len() < 300);
    let names = |path| template(path).unwrap().params().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names("/repos/{owner}/{base}...{head}/{*path}"), ["owner", "base", "head", "path"]);
    assert!(template("/a%20b/%C3%A9/@me:go;v=1/").is_ok());
}

#[test]
fn routes_that_cannot_work_are_refused() {
    let refused = |routes: &[Route], expected: Expect| {
        expected.assert_eq(&Router::new(routes).unwrap_err().to_string());
    };
    let get = Route::new("GET", "/orders/{id}");
    let rule = |kind: &str, param: &str| {
        Some(ResourceRule { kind: kind.to_owned(), param: param.to_owned() })
    };
    refused(
        &[Route::new("get", "/a")],
        expect!["`get` is not a method; write it in capitals, or `*` for any"],
    );
    refused(
        &[Route { resource: rule("order", "no"), ..get.clone() }],
        expect![
            "`GET /orders/{id}`: the resource's id is the parameter `no`, which the path does not have"
        ],
    );
    refused(
        &[Route { resource: rule("an order", "id"), ..get.clone() }],
        expect!["`GET /orders/{id}`: `an order` is not an entity type"],
    );
    refused(
        &[Route { cost: Some(0), ..get.clone() }],
        expect!["`GET /orders/{id}`: a cost is at least 1"],
    );
    refused(
        &[get.clone(), Route::new("GET", "/orders/{name}")],
        expect![
            "`GET /orders/{id}` and `GET /orders/{name}` match the same requests; remove one of them"
        ],
    );
    refused(
        &[Route::new("*", "/{*a}"), Route::new("*", "/{*b}")],
        expect!["`* /{*a}` and `* /{*b}` match the same requests; remove one of them"],
    );
    assert!(Router::new([get, Route::new("PUT", "/orders/{name}")]).is_ok());
}

fn show(router: &Router, request: &str) -> String {
    let (method, path) = request.split_once(' ').unwrap();
    match router.matched(method, path) {
        Matched::NotFound => "not found".to_owned(),
        Matched::MethodNotAllowed(methods) => format!("not allowed, but {}", methods.join(", ")),
        Matched::Found(found) => {
            let resource = found.resource().map(|uid| uid.to_string());
            format!(
                "{} | {:?} | {} | {}",
                found.route().unwrap().name(),
                found.values,
                found.action(),
                resource.unwrap_or_else(|error| error.to_string()),
            )
        }
    }
}

#[test]
fn the_most_specific_route_wins() {
    let order = ResourceRule { kind: "order".to_owned(), param: "id".to_owned() };
    let router = Router::new([
        Route::new("GET", "/orders"),
        Route { resource: Some(order), ..Route::new("GET", "/orders/{id}") },
        Route::new("GET", "/orders/mine"),
        Route { action: Some("edit".to_owned()), ..Route::new("PUT", "/orders/{name}") },
        Route::new("*", "/orders/{id}/notes"),
        Route::new("POST", "/orders/{id}:cancel"),
        Route::new("GET", "/diff/{base}...{head}"),
        Route::new("GET", "/files/{*rest}"),
        Route::new("GET", "/files/{name}"),
        Route::new("GET", "/"),
    ])
    .unwrap();
    let table = [
        "GET /orders",
        "GET /orders/",
        "GET /orders/7",
        "HEAD /orders/7",
        "GET /orders/mine",
        "PUT /orders/mine",
        "DELETE /orders/mine",
        "DELETE /orders/7",
        "POST /orders/7:cancel",
        "POST /orders/:cancel",
        "TRACE /orders/7/notes",
        "GET /diff/a...b",
        "GET /diff/a....b",
        "GET /diff/...b",
        "GET /files/a",
        "GET /files/a/b/",
        "GET /files/",
        "GET /files",
        "GET /",
        "GET ",
        "GET /orders/a%2Fb",
        "GET /orders/%C3%A9",
        "GET /orders/%FF",
        "get /orders",
        "GET /ORDERS",
    ];
    let shown: Vec<String> =
        table.iter().map(|request| format!("{request} => {}\n", show(&router, request))).collect();
    expect![[r#"
        GET /orders => GET /orders | [] | Action::"GET" | route::"/orders"
        GET /orders/ => not found
        GET /orders/7 => GET /orders/{id} | ["7"] | Action::"GET" | order::"7"
        HEAD /orders/7 => GET /orders/{id} | ["7"] | Action::"GET" | order::"7"
        GET /orders/mine => GET /orders/mine | [] | Action::"GET" | route::"/orders/mine"
        PUT /orders/mine => PUT /orders/{name} | ["mine"] | Action::"edit" | route::"/orders/{name}"
        DELETE /orders/mine => not allowed, but GET, PUT
        DELETE /orders/7 => not allowed, but GET, PUT
        POST /orders/7:cancel => POST /orders/{id}:cancel | ["7"] | Action::"POST" | route::"/orders/{id}:cancel"
        POST /orders/:cancel => not allowed, but GET, PUT
        TRACE /orders/7/notes => * /orders/{id}/notes | ["7"] | Action::"TRACE" | route::"/orders/{id}/notes"
        GET /diff/a...b => GET /diff/{base}...{head} | ["a", "b"] | Action::"GET" | route::"/diff/{base}...{head}"
        GET /diff/a....b => GET /diff/{base}...{head} | ["a", ".b"] | Action::"GET" | route::"/diff/{base}...{head}"
        GET /diff/...b => not found
        GET /files/a => GET /files/{name} | ["a"] | Action::"GET" | route::"/files/{name}"
        GET /files/a/b/ => GET /files/{*rest} | ["a/b/"] | Action::"GET" | route::"/files/{*rest}"
        GET /files/ => GET /files/{*rest} | [""] | Action::"GET" | route::"/files/{*rest}"
        GET /files => not found
        GET / => GET / | [] | Action::"GET" | route::"/"
        GET  => not found
        GET /orders/a%2Fb => GET /orders/{id} | ["a%2Fb"] | Action::"GET" | order::"a/b"
        GET /orders/%C3%A9 => GET /orders/{id} | ["%C3%A9"] | Action::"GET" | order::"é"
        GET /orders/%FF => GET /orders/{id} | ["%FF"] | Action::"GET" | `%FF` in the path is not UTF-8 once it is percent-decoded
        get /orders => not allowed, but GET
        GET /ORDERS => not found
    "#]].assert_eq(&shown.concat());
}

/// All ways to give each parameter of a mixture at least one byte, shortest values first.
fn mixture<'p>(text: &'p str, head: &str, params: &[(String, String)]) -> Option<Vec<&'p str>> {
    fn go<'p>(text: &'p str, params: &[(String, String)]) -> Option<Vec<&'p str>> {
        let Some(((_, tail), more)) = params.split_first() else {
            return text.is_empty().then(Vec::new);
        };
        (1..=text.len()).filter(|at| text.is_char_boundary(*at)).find_map(|at| {
            let rest = go(text[at..].strip_prefix(tail.as_str())?, more)?;
            Some([vec![&text[..at]], rest].concat())
        })
    }
    go(text.strip_prefix(head)?, params)
}

fn naive<'p>(template: &Template, path: &'p str) -> Option<Vec<&'p str>> {
    let mut rest = Some(path.strip_prefix('/')?);
    let mut values = Vec::new();
    for segment in &template.segments {
        if let Segment::Tree(_) = segment {
            values.push(rest.unwrap_or_default());
            return Some(values);
        }
        let here = rest?;
        if let Segment::Rest(_) = segment {
            values.push(here);
            return Some(values);
        }
        let (text, below) = match here.split_once('/') {
            Some((text, below)) => (text, Some(below)),
            None => (here, None),
        };
        match segment {
            Segment::Literal(literal) if literal == text => {}
            Segment::Param(_) if !text.is_empty() => values.push(text),
            Segment::Mixed { head, params } => values.extend(mixture(text, head, params)?),
            _ => return None,
        }
        rest = below;
    }
    rest.is_none().then_some(values)
}

/// Smaller is more specific.
fn rank(template: &Template) -> Vec<(u8, std::cmp::Reverse<usize>, String)> {
    let of = |segment: &Segment| match segment {
        Segment::Literal(_) => (0, 0, String::new()),
        Segment::Mixed { head, params } => {
            let tails: Vec<&str> = params.iter().map(|(_, tail)| tail.as_str()).collect();
            let bytes = head.len() + tails.iter().map(|tail| tail.len()).sum::<usize>();
            (1, bytes, format!("{head}\0{}", tails.join("\0")))
        }
        Segment::Param(_) => (2, 0, String::new()),
        Segment::Rest(_) => (3, 0, String::new()),
        Segment::Tree(_) => (4, 0, String::new()),
    };
    let ranks = template.segments.iter().map(of);
    ranks.map(|(kind, bytes, text)| (kind, std::cmp::Reverse(bytes), text)).collect()
}

#[derive(Debug, PartialEq)]
enum Answer<'p> {
    Found(usize, Vec<&'p str>),
    NotAllowed(Vec<String>),
    NotFound,
}

fn by_hand<'p>(routes: &[Route], method: &str, path: &'p str) -> Answer<'p> {
    let mut allowed = Vec::new();
    let mut found = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let template: Template = route.path.parse().unwrap();
        let Some(values) = naive(&template, path) else { continue };
        allowed.push(route.method.clone());
        let step = match route.method.as_str() {
            have if have == method => 0,
            "GET" if method == "HEAD" => 1,
            "*" => 2,
            _ => continue,
        };
        found.push(((rank(&template), step), index, values));
    }
    if let Some((_, index, values)) = found.into_iter().min_by(|a, b| a.0.cmp(&b.0)) {
        return Answer::Found(index, values);
    }
    allowed.sort();
    allowed.dedup();
    if allowed.is_empty() { Answer::NotFound } else { Answer::NotAllowed(allowed) }
}

/// Few letters, so that templates and paths meet often.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{1,2}",
        3 => Just("{P}".to_owned()),
        1 => "[ab.]?\\{P\\}[ab.]",
        1 => "[ab.]{0,1}\\{P\\}[ab.]{1,2}\\{P\\}[ab.]{0,1}",
    ]
    .prop_filter("dots", |text| !matches!(text.as_str(), "." | ".."))
}

fn path() -> impl Strategy<Value = String> {
    let end = prop_oneof![4 => Just(""), 1 => Just("/"), 1 => Just("/{*P}")];
    (prop::collection::vec(segment(), 0..4), end).prop_map(|(segments, end)| {
        let mut path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        path.push_str(end);
        let mut count = 0;
        while let Some(at) = path.find('P') {
            count += 1;
            path.replace_range(at..=at, &format!("p{count}"));
        }
        if path.is_empty() { "/".to_owned() } else { path }
    })
}

fn method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["GET", "HEAD", "PUT", "*"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn the_router_is_the_naive_matcher(
        routes in prop::collection::vec((method(), path()), 1..14),
        requests in prop::collection::vec((method(), "(/[ab.]{0,4}){0,4}"), 40),
    ) {
        let mut kept: Vec<Route> = Vec::new();
        for (method, path) in routes {
            let route = Route::new(method, path);
            let mut with = kept.clone();
            with.push(route);
            if Router::new(with.as_slice()).is_ok() {
                kept = with;
            }
        }
        let router = Router::new(kept.as_slice()).unwrap();
        for (method, path) in &requests {
            let answer = match router.matched(method, path) {
                Matched::Found(found) => Answer::Found(found.index, found.values),
                Matched::MethodNotAllowed(methods) => {
                    Answer::NotAllowed(methods.into_iter().map(str::to_owned).collect())
                }
                Matched::NotFound => Answer::NotFound,
            };
            prop_assert_eq!(answer, by_hand(&kept, method, path), "{} {} in {:#?}", method, path, kept);
        }
    }

    #[test]
    fn templates_and_paths_never_panic(template in "[/{}*a%F2é .]{0,20}", path in any::<String>()) {
        let routes = [Route::new("GET", template), Route::new("GET", "/{*rest}")];
        if let Ok(router) = Router::new(routes)
            && let Matched::Found(found) = router.matched("GET", &path)
        {
            let _ = (found.action(), found.resource());
        }
    }
}

#[test]
fn a_tree_is_one_route_for_a_path_and_all_below() {
    let router = Router::new(vec![
        Route::new("*", "/admin{/*rest}"),
        Route::new("GET", "/admin/open"),
        Route::new("GET", "/files"),
        Route::new("GET", "/files/{*rest}"),
        Route::new("*", "/files{/*rest}"),
        Route::new("*", "{/*rest}"),
    ])
    .unwrap();
    let table = [
        "GET /admin",
        "GET /admin/",
        "GET /admin/a/b",
        "GET /admin//b",
        "GET /admins",
        "GET /admin/open",
        "PUT /admin/open",
        "GET /files",
        "GET /files/a",
        "PUT /files",
        "GET /",
    ];
    let shown: Vec<String> =
        table.iter().map(|request| format!("{request} => {}\n", show(&router, request))).collect();
    expect![[r#"
        GET /admin => * /admin{/*rest} | [""] | Action::"GET" | route::"/admin"
        GET /admin/ => * /admin{/*rest} | [""] | Action::"GET" | route::"/admin"
        GET /admin/a/b => * /admin{/*rest} | ["a/b"] | Action::"GET" | route::"/admin"
        GET /admin//b => * /admin{/*rest} | ["/b"] | Action::"GET" | route::"/admin"
        GET /admins => * {/*rest} | ["admins"] | Action::"GET" | route::"/"
        GET /admin/open => GET /admin/open | [] | Action::"GET" | route::"/admin/open"
        PUT /admin/open => * /admin{/*rest} | ["open"] | Action::"PUT" | route::"/admin"
        GET /files => GET /files | [] | Action::"GET" | route::"/files"
        GET /files/a => GET /files/{*rest} | ["a"] | Action::"GET" | route::"/files/{*rest}"
        PUT /files => * /files{/*rest} | [""] | Action::"PUT" | route::"/files"
        GET / => * {/*rest} | [""] | Action::"GET" | route::"/"
    "#]]
    .assert_eq(&shown.concat());
    for (path, reason) in [
        ("/admin/{/*rest}", "write `/admin{/*rest}`"),
        ("/admin{/*}", "cannot name a parameter"),
        ("/admin{/*rest}/x", "a `{` is not closed"),
        ("admin{/*rest}", "it must start with `/`"),
        ("/{id}{/*id}", "occurs twice"),
    ] {
        let error = path.parse::<Template>().unwrap_err().to_string();
        assert!(error.contains(reason), "{path}: {error}");
    }
    assert_eq!(Route::new("GET", "/admin{/*rest}").needs(), 2);
    assert_eq!(Route::new("GET", "/admin/{*rest}").needs(), 1);
}

#[test]
fn paths_that_fold_match_without_case_and_keep_the_values() {
    use keepgate_policy::service::PathsFold;
    let routes = [
        "/Admin",
        "/admin/{*rest}",
        "/users/{id}/Notes",
        "/{a}.JSON",
        "/caf%C3%A9/{x}",
        "/tree{/*rest}",
        "/k",
    ]
    .map(|path| Route::new("GET", path));
    let router = Router::folding(routes.to_vec(), PathsFold::Case).unwrap();
    for (path, spelled) in [
        ("/admin", Some("/Admin")),
        ("/ADMIN", Some("/Admin")),
        ("/Admin/", Some("/admin/")),
        ("/aDMIN/Secret/X", Some("/admin/Secret/X")),
        ("/Users/Bob/nOTES", Some("/users/Bob/Notes")),
        ("/Data.json", Some("/Data.JSON")),
        ("/CAF%C3%89/Y", Some("/caf%C3%A9/Y")),
        ("/Tree", Some("/tree")),
        ("/Tree/", Some("/tree/")),
        ("/TREE/Leaf", Some("/tree/Leaf")),
        // The Kelvin sign is no `k`.
        ("/%E2%84%AA", None),
        ("/users/Bob/note", None),
    ] {
        match (router.matched("GET", path), spelled) {
            (Matched::Found(found), Some(spelled)) => {
                assert_eq!(found.spelled(path), spelled, "{path}");
            }
            (Matched::NotFound, None) => {}
            (other, _) => panic!("{path}: {other:?}"),
        }
    }
    let alike = vec![Route::new("GET", "/a"), Route::new("GET", "/A")];
    assert!(Router::new(alike.clone()).is_ok());
    assert!(matches!(
        Router::folding(alike, PathsFold::Case),
        Err(keepgate_policy::route::RouteError::Conflict { .. })
    ));
}
