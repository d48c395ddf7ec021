//! The document: escaped, complete in each language, and small.

use keepgate_limit::limiter::Unit;
use keepgate_limit::rules::{Defaults, Limits};
use keepgate_page::{
    Api, AskForm, HasLeft, Lang, Left, MAX_OPERATIONS, May, Notice, Operation, Page, STYLE, YourKey,
};
use keepgate_policy::identify::{ApiKeyHeader, Identify};
use keepgate_policy::route::Route;

const EVIL: &str = "<script>alert(1)</script>\"'&";

fn page(api: &Api) -> Page<'_> {
    Page {
        api,
        lang: Lang::English,
        here: "/.keepgate/api",
        origin: Some("https://shop.example"),
        notice: None,
        key: None,
        shows_keys: true,
        counts: true,
        takes_asks: true,
        form: AskForm::default(),
    }
}

fn orders() -> Api {
    let mut one = Route::new("GET", "/orders/{id}");
    one.describe("getOrder", "Shows <one> order\nand more");
    let routes = [Route::new("GET", "/orders"), one, Route::new("POST", "/orders")];
    let identify = Identify {
        api_key: Some(ApiKeyHeader { header: "x-api-key".to_owned() }),
        ..Identify::default()
    };
    Api::of("orders", &routes, &Limits::default(), &identify, "/shop")
}

/// Whatever a value is, it stays a text.
#[test]
fn every_value_is_escaped() {
    let mut api = orders();
    let evil = EVIL.to_owned();
    api.name = evil.clone();
    api.key_header = Some(evil.clone());
    api.help = Some(evil.clone());
    api.operations = vec![Operation {
        method: evil.clone(),
        path: evil.clone(),
        name: evil.clone(),
        summary: evil.clone(),
        anonymous: false,
    }];
    for limit in &mut api.limits {
        (limit.name, limit.per, limit.of) = (evil.clone(), evil.clone(), evil.clone());
    }
    let plan = keepgate_page::Plan {
        name: evil.clone(),
        description: evil.clone(),
        limits: api.limits.clone(),
    };
    api.plans = vec![plan];
    let left = Left {
        name: evil.clone(),
        on: evil.clone(),
        unit: Unit::Rate,
        left: 1,
        of: 2,
        full_in_s: 3,
    };
    let key = YourKey::Known {
        prefix: evil.clone(),
        plan: evil.clone(),
        left: HasLeft::Here(vec![left]),
        may: vec![May::Depends],
    };
    for lang in Lang::ALL {
        for notice in [Notice::Asked(EVIL), Notice::Made(EVIL, EVIL)] {
            let form = AskForm {
                who: evil.clone(),
                what_for: evil.clone(),
                per_day: evil.clone(),
                ..AskForm::default()
            };
            let (notice, key) = (Some(notice), Some(key.clone()));
            let (here, origin) = (EVIL, Some(EVIL));
            let page = Page { lang, here, origin, notice, key, form, ..page(&api) };
            let html = page.html();
            assert!(!html.contains("<script"), "{html}");
            assert!(html.matches("&lt;script&gt;").count() > 20);
            // No attribute ends early: what is written in one is escaped.
            assert!(!html.contains("alert(1)</script>\""), "{html}");
        }
    }
}

/// Nothing is inline, and nothing is of another host.
#[test]
fn a_strict_policy_fits_the_page() {
    let api = orders();
    let html = page(&api).html();
    for bad in ["<script", "<style", " style=", " onclick", "javascript:", "<img", "<iframe"] {
        assert!(!html.contains(bad), "{bad}");
    }
    let linked = html.split("href=\"").skip(1).chain(html.split("action=\"").skip(1));
    for link in linked.filter_map(|rest| rest.split('"').next()) {
        assert!(link.starts_with("/.keepgate/api") || link.starts_with('#'), "{link}");
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    assert!(html.len() + STYLE.len() < 16 << 10, "{} + {}", html.len(), STYLE.len());
}

#[test]
fn it_says_what_the_service_says_of_itself() {
    let api = orders();
    let html = page(&api).html();
    for said in [
        "lang=\"en\"",
        "/shop/orders/{id}",
        "getOrder",
        "Shows &lt;one&gt; order</span>",
        "curl -H &quot;x-api-key: $KEY&quot; 'https://shop.example/shop/orders'",
        "curl -X POST",
        "default-principal",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    let chinese = Page { lang: Lang::Chinese, ..page(&api) }.html();
    assert!(chinese.contains("lang=\"zh-Hans\"") && chinese.contains("\u{7533}\u{8bf7}"));
    let quiet = Page { takes_asks: false, shows_keys: false, ..page(&api) }.html();
    assert!(!quiet.contains("<form"));
}

#[test]
fn many_operations_are_cut_off_and_that_is_said() {
    let route = |n: usize| Route::new("GET", format!("/r{n}"));
    let routes: Vec<Route> = (0..MAX_OPERATIONS + 1).map(route).collect();
    let limits = Limits { defaults: Defaults::Off, ..Limits::default() };
    let of = |routes: &[Route]| Api::of("s", routes, &limits, &Identify::default(), "");
    let (all, more) = (of(&routes[..MAX_OPERATIONS]), of(&routes));
    assert_eq!((all.operations.len(), all.left_out), (MAX_OPERATIONS, 0));
    assert_eq!((more.operations.len(), more.left_out), (MAX_OPERATIONS, 1));
    assert!(page(&more).html().contains("1 more operations"));
}

/// What is not known is never told as a refusal.
#[test]
fn no_answer_is_not_declined() {
    let api = orders();
    let html = Page { notice: Some(Notice::Unavailable), ..page(&api) }.html();
    assert!(html.contains("You are not declined."));
    assert!(!html.contains("Your request was declined"));
}
