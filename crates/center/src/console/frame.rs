//! What is around each page: rail, services, settings; and the page of a form that nobody made here.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use keepgate_api as api;
use maud::{DOCTYPE, Markup, html};

use super::form::encoded;
use super::part::{Icon, Tone, english, hidden, notice, num};
use super::text::Lang;
use super::visit::{Theme, Visit};
use super::{Console, assets};

/// Services that the rail lists; others are named.
const LISTED: usize = 30;

/// The pages of the rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nav {
    Overview,
    Why,
    Access,
    Policies,
    Callers,
    History,
}

impl Nav {
    const ALL: [Nav; 6] =
        [Nav::Overview, Nav::Why, Nav::Access, Nav::Policies, Nav::Callers, Nav::History];

    fn path(self) -> &'static str {
        match self {
            Nav::Overview => "/overview",
            Nav::Why => "/why",
            Nav::Access => "/access",
            Nav::Policies => "/policies",
            Nav::Callers => "/callers",
            Nav::History => "/history",
        }
    }

    fn title(self, t: Lang) -> &'static str {
        match self {
            Nav::Overview => t.overview(),
            Nav::Why => t.why(),
            Nav::Access => t.access(),
            Nav::Policies => t.policies(),
            Nav::Callers => t.callers(),
            Nav::History => t.history(),
        }
    }

    fn icon(self) -> Icon {
        match self {
            Nav::Overview => Icon::Chart,
            Nav::Why => Icon::Question,
            Nav::Access => Icon::Key,
            Nav::Policies => Icon::Page,
            Nav::Callers => Icon::People,
            Nav::History => Icon::Clock,
        }
    }
}

/// The service that a page is about, among those there are.
#[derive(Debug)]
pub(crate) struct Place {
    /// None: there is no service.
    pub(crate) service: Option<String>,
    pub(crate) services: Vec<api::ServiceSummary>,
    more: bool,
    pub(crate) revision: u64,
}

impl Place {
    /// Looks for the service that the visitor names, or the first.
    pub(crate) async fn of(console: &Console, visit: &Visit) -> Result<Place, api::Problem> {
        let path = format!("/v1/services?limit={LISTED}");
        let list: api::Services = console.get(visit, &path).await?;
        let named = visit.service();
        let first = list.services.first().map(|one| one.name.clone());
        let service = if named.is_empty() { first } else { Some(named.to_owned()) };
        Ok(Place {
            service,
            services: list.services,
            more: list.next.is_some(),
            revision: list.revision,
        })
    }

    /// The query that stays with this service.
    fn query(&self) -> String {
        match &self.service {
            Some(service) => format!("?service={}", encoded(service)),
            None => String::new(),
        }
    }
}

/// The whole page.
pub(crate) fn page(
    visit: &Visit,
    status: StatusCode,
    nav: Nav,
    place: &Place,
    body: &Markup,
) -> Response {
    let t = visit.lang;
    let title = nav.title(t);
    let content = html! {
        header class="rail" {
            a class="brand" href="/overview" aria-label=(t.keepgate()) {
                (Icon::Gate.at(20)) span { (t.keepgate()) }
            }
            (picker(visit, nav, place))
            nav class="nav" aria-label=(t.pages()) {
                ul {
                    @for one in Nav::ALL {
                        li {
                            a href={ (one.path()) (place.query()) }
                                aria-current=[(one == nav).then_some("page")] {
                                (one.icon().at(16)) span { (one.title(t)) }
                            }
                        }
                    }
                }
            }
            div class="me-at" { (me_button(visit)) }
            div id="me" popover {
                div class="stack" {
                    (settings(visit))
                    form method="post" action="/logout" {
                        (hidden(visit))
                        button class="btn small" { (t.sign_out()) }
                    }
                }
            }
        }
        main class="main" id="main" tabindex="-1" {
            div class="head" {
                h1 { (title) }
                p class="rests" id="live" data-url="/live" data-live-word=(t.live())
                    data-lost=(t.not_live("{at}", "{age}")) data-ended=(t.session_ended()) {
                    span role="status" id="live-word" {}
                    span id="live-revision" data-text=(t.revision_is("{n}")) {
                        (t.revision_is(num(place.revision)))
                    }
                }
            }
            (body)
        }
    };
    whole(visit, status, title, "app", &content)
}

fn picker(visit: &Visit, nav: Nav, place: &Place) -> Markup {
    let t = visit.lang;
    let chosen = place.service.as_deref();
    html! {
        div {
            button class="pick" type="button" popovertarget="services" {
                span {
                    (chosen.unwrap_or(t.no_service()))
                    " " small { (t.service()) }
                }
                (Icon::Pick.at(16))
                span class="sr" { (t.change_service()) }
            }
        }
        div id="services" popover class="menu" {
            ul {
                @for one in &place.services {
                    li {
                        a href={ (nav.path()) "?service=" (encoded(&one.name)) }
                            aria-current=[(chosen == Some(one.name.as_str())).then_some("true")] {
                            (one.name)
                        }
                    }
                }
            }
            @if place.more {
                form method="get" action=(nav.path()) class="stack" {
                    div class="field" {
                        label for="other-service" { (t.other_service()) }
                        input id="other-service" class="mono" name="service" required;
                    }
                    button class="btn small" { (t.show()) }
                }
            }
        }
    }
}

fn me_button(visit: &Visit) -> Markup {
    let t = visit.lang;
    let caller = visit.who.as_ref().map(|who| &who.caller);
    html! {
        button class="pick" type="button" popovertarget="me" {
            @if let Some(caller) = caller {
                span { (caller.token_id()) " " small { (t.role(caller.role())) } }
            }
            (Icon::Pick.at(16))
            span class="sr" { (t.settings()) }
        }
    }
}

/// Theme and language.
fn settings(visit: &Visit) -> Markup {
    let t = visit.lang;
    // Back to a page that GET makes.
    let next = if visit.method == http::Method::GET { visit.here.as_str() } else { "" };
    html! {
        form class="stack" method="post" action="/settings" {
            (hidden(visit))
            input type="hidden" name="next" value=(next);
            fieldset class="field" {
                legend { (t.theme()) }
                span class="seg" {
                    @for theme in Theme::ALL {
                        input type="radio" name="theme" id={ "theme-" (theme.name()) }
                            value=(theme.name()) checked[theme == visit.theme];
                        label for={ "theme-" (theme.name()) } { (t.theme_name(theme)) }
                    }
                }
            }
            fieldset class="field" {
                legend { (t.language()) }
                span class="seg" {
                    @for lang in Lang::ALL {
                        input type="radio" name="language" id={ "language-" (lang.tag()) }
                            value=(lang.tag()) checked[lang == t];
                        label for={ "language-" (lang.tag()) } lang=(lang.tag()) { (lang.own_name()) }
                    }
                }
            }
            button class="btn small" { (t.save()) }
        }
    }
}

/// A page without a rail.
pub(crate) fn solo(visit: &Visit, status: StatusCode, title: &str, body: &Markup) -> Response {
    let t = visit.lang;
    let content = html! {
        main id="main" tabindex="-1" {
            div class="brand" { (Icon::Gate.at(20)) span { (t.keepgate()) } }
            (body)
            details class="foot" {
                summary { (t.settings()) }
                (settings(visit))
            }
        }
    };
    whole(visit, status, title, "solo", &content)
}

/// A page without a rail that only says something.
pub(crate) fn said(visit: &Visit, status: StatusCode, title: &str, body: &Markup) -> Response {
    solo(visit, status, title, &html! { h1 class="sr" { (title) } (body) })
}

fn whole(visit: &Visit, status: StatusCode, title: &str, class: &str, body: &Markup) -> Response {
    let t = visit.lang;
    let theme = Some(visit.theme.name()).filter(|_| visit.theme != Theme::System);
    let text = html! {
        (DOCTYPE)
        html lang=(t.tag()) data-theme=[theme] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " \u{b7} " (t.keepgate()) }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.path);
                link rel="stylesheet" href=(assets::STYLE.path);
                script src=(assets::SCRIPT.path) defer {}
            }
            body class=(class) {
                a class="skip" href="#main" { (t.skip()) }
                (body)
            }
        }
    };
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    (status, [(header::CONTENT_TYPE, html)], text.into_string()).into_response()
}

/// A form that no page of this center made for this visitor: nothing was done.
pub(crate) fn forged(visit: &Visit) -> Response {
    let t = visit.lang;
    let body = html! {
        (notice(Tone::Bad, Icon::Bad, t.forged(), &html! { p { (t.forged_why()) } }))
        p { a href="/overview" { (t.to_overview()) } }
    };
    said(visit, StatusCode::FORBIDDEN, t.forged(), &body)
}

/// A page that could not be made at all.
pub(crate) fn failed(visit: &Visit, problem: &api::Problem) -> Response {
    let t = visit.lang;
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = html! {
        (super::part::refused(t, problem))
        p { a href=(visit.path) { (t.try_again()) } }
        @if let Some(id) = &problem.request_id { p class="quiet small" { (english(t, id)) } }
    };
    said(visit, status, t.refused_other(), &body)
}
