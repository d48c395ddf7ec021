//! The page itself.

use keepgate_limit::limiter::Unit;
use maud::{DOCTYPE, Markup, html};

use crate::api::{Api, Limit, Operation};
use crate::form::{AskForm, MAX_CODE, MAX_KEY, MAX_WHAT_FOR, MAX_WHO};
use crate::paths;
use crate::text::Lang;

/// Seconds after which a caller without an answer may try again.
const AGAIN_S: u32 = 5;
/// The same where no more requests for access are taken, and nobody says when.
const FULL_S: u32 = 600;
/// What curl lines have where nobody knows how callers reach the API.
const NO_ORIGIN: &str = "https://HOST";

/// All that a page is made of.
pub struct Page<'p> {
    /// What it is about.
    pub api: &'p Api,
    /// Its language.
    pub lang: Lang,
    /// Its own path, below which its files and forms are.
    pub here: &'p str,
    /// How callers reach the API, such as `https://shop.example`; none: that is not known here.
    pub origin: Option<&'p str>,
    /// What became of what was sent.
    pub notice: Option<Notice<'p>>,
    /// The key that was shown; none: none was.
    pub key: Option<YourKey>,
    /// Whether it can say what a key may do.
    pub shows_keys: bool,
    /// Whether it can say what a key has left.
    pub counts: bool,
    /// Whether access can be asked for here.
    pub takes_asks: bool,
    /// The form, where it was wrong.
    pub form: AskForm,
}

/// What became of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'p> {
    /// It was taken down; the code.
    Asked(&'p str),
    /// The key, and its plan (empty: none).
    Made(&'p str, &'p str),
    /// Too many tries; seconds until the next one.
    TooMany(u32),
    /// No more requests are taken.
    Full,
    /// The form has a mistake.
    Wrong,
    /// It cannot be asked.
    Invalid,
    /// The code gives no key.
    Unknown,
    /// Nobody has decided.
    Pending,
    /// The answer was no.
    Declined,
    /// There is no answer.
    Unavailable,
}

/// What a key may do, and has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum YourKey {
    /// It is not one of this API.
    Unknown,
    /// It is one.
    Known {
        /// Its public part.
        prefix: String,
        /// Its plan; empty: none.
        plan: String,
        /// What its limits have left.
        left: HasLeft,
        /// What it may do, in the order of the operations.
        may: Vec<May>,
    },
}

/// What the limits of a key have left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HasLeft {
    /// As the gate that answers has counted.
    Here(Vec<Left>),
    /// Gates count, and the page is not made by one.
    AtGates,
}

/// What one limit has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The limit's name.
    pub name: String,
    /// Methods and route; empty: all.
    pub on: String,
    /// What it counts.
    pub unit: Unit,
    /// What is left.
    pub left: u64,
    /// Of so many.
    pub of: u64,
    /// Seconds until all of it is there again; 0: it is, or nobody knows.
    pub full_in_s: u64,
}

/// Whether a key may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// It may.
    Yes,
    /// It may not.
    No,
    /// It depends on the rest of the request.
    Depends,
    /// That cannot be decided now.
    NotKnown,
}

impl Notice<'_> {
    /// What it means that the center refused, or gave no answer (an empty reason): a status, what is said,
    /// and after how many seconds the caller may try again.
    pub fn of_refusal(reason: &str, retry_after_s: u32) -> (u16, Notice<'static>, Option<u32>) {
        let told = |least: u32| if retry_after_s == 0 { least } else { retry_after_s };
        match reason {
            "too-many" => {
                let wait = told(60);
                (429, Notice::TooMany(wait), Some(wait))
            }
            "full" => (503, Notice::Full, Some(told(FULL_S))),
            "invalid" => (422, Notice::Invalid, None),
            "unknown" => (404, Notice::Unknown, None),
            "pending" => (202, Notice::Pending, Some(told(60))),
            "declined" => (410, Notice::Declined, None),
            _ => (503, Notice::Unavailable, Some(AGAIN_S)),
        }
    }

    fn says(self, lang: Lang) -> String {
        let text = match self {
            Notice::Asked(_) => lang.asked(),
            Notice::Made(..) => lang.made(),
            Notice::TooMany(seconds) => return lang.too_many(seconds),
            Notice::Full => lang.full(),
            Notice::Wrong => lang.wrong(),
            Notice::Invalid => lang.invalid(),
            Notice::Unknown => lang.unknown(),
            Notice::Pending => lang.pending(),
            Notice::Declined => lang.declined(),
            Notice::Unavailable => lang.unavailable(),
        };
        text.to_owned()
    }
}

impl Page<'_> {
    /// The document.
    pub fn html(&self) -> String {
        let Page { api, lang, here, .. } = *self;
        let page = html! {
            (DOCTYPE)
            html lang=(lang.tag()) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    title { (api.name) }
                    link rel="stylesheet" href={ (here) (paths::STYLE) };
                }
                body {
                    a.skip href="#main" { (lang.skip()) }
                    header {
                        span.brand { (api.name) }
                        nav aria-label=(lang.on_page()) {
                            a href="#operations" { (lang.operations()) }
                            @if self.takes_asks { a href="#ask" { (lang.ask()) } }
                        }
                        nav aria-label=(lang.language()) {
                            @for one in Lang::ALL {
                                a href={ (here) "?lang=" (one.tag()) } lang=(one.tag())
                                    hreflang=(one.tag())
                                    aria-current=[(one == lang).then_some("true")] {
                                    (one.own_name())
                                }
                            }
                        }
                    }
                    main #main tabindex="-1" {
                        h1 { (api.name) }
                        p.quiet { (lang.rests()) }
                        @if let Some(help) = &api.help { p { a href=(help) { (lang.own_help()) } } }
                        @if let Some(notice) = self.notice { (said(lang, notice)) }
                        section.warn {
                            h2 { (lang.limited_head()) }
                            p { (lang.limited()) }
                        }
                        @if self.shows_keys { (self.your_key()) }
                        (self.operations())
                        (self.sign_in())
                        (limits(lang, api))
                        @if self.takes_asks { (self.asking()) (self.fetching()) }
                    }
                    footer { (lang.footer()) }
                }
            }
        };
        page.into_string()
    }

    fn hidden_lang(&self) -> Markup {
        html! { input type="hidden" name="lang" value=(self.lang.tag()); }
    }

    fn your_key(&self) -> Markup {
        let lang = self.lang;
        html! {
            section aria-labelledby="key" {
                h2 #key { (lang.your_key()) }
                @match &self.key {
                    None => {}
                    Some(YourKey::Unknown) => p role="status" { (lang.key_unknown()) },
                    Some(YourKey::Known { prefix, plan, left, may }) => {
                        @let here = match left { HasLeft::Here(left) => left.as_slice(), HasLeft::AtGates => &[] };
                        p role="status" {
                            @match left {
                                HasLeft::Here(_) => (lang.key_is(prefix)),
                                HasLeft::AtGates => (lang.key_is_known(prefix)),
                            }
                        }
                        dl {
                            dt { (lang.plan()) }
                            dd { @if plan.is_empty() { (lang.no_plan()) } @else { code { (plan) } } }
                            @for one in here {
                                dt {
                                    code { (one.name) }
                                    @if !one.on.is_empty() { " " (lang.only_on(&one.on)) }
                                }
                                dd { (has_left(lang, one)) }
                            }
                        }
                        @match left {
                            HasLeft::AtGates => {
                                p { (lang.left_at_gates()) }
                                (limit_table(lang, lang.your_limits(), self.limits_of(plan)))
                            },
                            HasLeft::Here(left) if left.is_empty() => p { (lang.no_left()) },
                            HasLeft::Here(_) => {},
                        }
                        (may_table(lang, &self.api.operations, may))
                    }
                }
                form method="post" action={ (self.here) (paths::LEFT) } {
                    (self.hidden_lang())
                    label for="shown" { (lang.your_key()) }
                    input #shown name="key" type="password" autocomplete="off" required
                        maxlength=(MAX_KEY) aria-describedby="shown-hint";
                    p.hint #shown-hint {
                        @if self.counts { (lang.your_key_hint()) } @else { (lang.your_key_may()) }
                    }
                    button { (lang.show()) }
                }
            }
        }
    }

    /// The limits of a plan; where it has none, or there is no such plan, those of all callers.
    fn limits_of(&self, plan: &str) -> &[Limit] {
        let own = self.api.plans.iter().find(|one| one.name == plan);
        own.map(|plan| plan.limits.as_slice())
            .filter(|limits| !limits.is_empty())
            .unwrap_or(&self.api.limits)
    }

    fn operations(&self) -> Markup {
        let Page { api, lang, .. } = *self;
        html! {
            section aria-labelledby="operations" {
                h2 #operations { (lang.operations()) }
                @if api.operations.is_empty() { p { (lang.no_operations()) } }
                @for operation in &api.operations {
                    details {
                        summary {
                            span.verb { (verb(lang, operation)) }
                            " " code { (operation.path) } " "
                            span.quiet {
                                (operation.name)
                                @if operation.anonymous { " (" (lang.needs_nothing()) ")" }
                            }
                            @if !operation.summary.is_empty() { span.says { (operation.summary) } }
                        }
                        pre tabindex="0" role="group"
                            aria-label=(lang.curl_of(verb(lang, operation), &operation.path)) {
                            (self.curl(operation))
                        }
                    }
                }
                @if api.left_out > 0 { p { (lang.left_out(api.left_out)) } }
                @if self.origin.is_none() && !api.operations.is_empty() { p { (lang.no_origin(NO_ORIGIN)) } }
                p.quiet { (lang.codes()) }
            }
        }
    }

    /// A line for a shell: what could mean something to it is in single quotes.
    fn curl(&self, operation: &Operation) -> String {
        let mut line = "curl".to_owned();
        if !matches!(operation.method.as_str(), "GET" | "*") {
            line.push_str(" -X ");
            line.push_str(&operation.method);
        }
        if !operation.anonymous {
            if let Some(header) = &self.api.key_header {
                line.push_str(&format!(" -H \"{}\"", shown_key(header)));
            } else if self.api.takes_tokens {
                line.push_str(" -H \"Authorization: Bearer $TOKEN\"");
            }
        }
        let path = operation.path.replace("{/*", "/{").replace("{*", "{");
        let origin = self.origin.unwrap_or(NO_ORIGIN);
        line.push_str(&format!(" '{}'", format!("{origin}{path}").replace('\'', "%27")));
        line
    }

    fn sign_in(&self) -> Markup {
        let Page { api, lang, .. } = *self;
        let is_other = api.key_header.is_none() && !api.takes_tokens && !api.takes_certificates;
        html! {
            section aria-labelledby="authenticate" {
                h2 #authenticate { (lang.sign_in()) }
                @if let Some(header) = &api.key_header {
                    p { (lang.by_key()) " " code { (shown_key(header)) } }
                    p.quiet { (lang.never_in_address()) }
                }
                @if api.takes_tokens {
                    p { (lang.by_token()) " " code { "Authorization: Bearer $TOKEN" } }
                }
                @if api.takes_certificates { p { (lang.by_certificate()) } }
                @if is_other { p { (lang.by_other()) } }
            }
        }
    }

    fn asking(&self) -> Markup {
        let Page { lang, ref form, .. } = *self;
        html! {
            section aria-labelledby="ask" {
                h2 #ask { (lang.ask()) }
                p.quiet { (lang.ask_hint()) }
                form method="post" action={ (self.here) (paths::ASK) } {
                    (self.hidden_lang())
                    label for="who" { (lang.who()) }
                    input #who name="who" required maxlength=(MAX_WHO) autocomplete="organization"
                        value=(form.who) aria-describedby="who-hint"
                        aria-invalid=[form.wrong_who.then_some("true")];
                    (hint("who-hint", form.wrong_who, lang.wrong_who(), lang.who_hint()))
                    label for="what-for" { (lang.what_for()) }
                    textarea #what-for name="what_for" rows="3" required maxlength=(MAX_WHAT_FOR)
                        aria-describedby="what-for-hint"
                        aria-invalid=[form.wrong_what_for.then_some("true")] { (form.what_for) }
                    (hint("what-for-hint", form.wrong_what_for, lang.wrong_what_for(),
                          lang.what_for_hint()))
                    label for="per-day" { (lang.per_day()) }
                    input #per-day name="per_day" required inputmode="numeric" maxlength="20"
                        value=(form.per_day) aria-describedby="per-day-hint"
                        aria-invalid=[form.wrong_per_day.then_some("true")];
                    (hint("per-day-hint", form.wrong_per_day, lang.wrong_per_day(),
                          lang.per_day_hint()))
                    button { (lang.ask_button()) }
                }
            }
        }
    }

    fn fetching(&self) -> Markup {
        let lang = self.lang;
        html! {
            section aria-labelledby="fetch" {
                h2 #fetch { (lang.fetch()) }
                form method="post" action={ (self.here) (paths::FETCH) } {
                    (self.hidden_lang())
                    label for="code" { (lang.code()) }
                    input #code name="code" required autocomplete="off" spellcheck="false"
                        maxlength=(MAX_CODE) aria-describedby="code-hint";
                    p.hint #code-hint { (lang.fetch_hint()) }
                    button { (lang.fetch_button()) }
                }
            }
        }
    }
}

fn verb(lang: Lang, operation: &Operation) -> &str {
    if operation.method == "*" { lang.any_method() } else { &operation.method }
}

/// How a key is shown in a header.
fn shown_key(header: &str) -> String {
    if header.eq_ignore_ascii_case("authorization") {
        "Authorization: Bearer $KEY".to_owned()
    } else {
        format!("{header}: $KEY")
    }
}

fn hint(id: &str, is_wrong: bool, wrong: &str, right: &str) -> Markup {
    html! {
        @if is_wrong { p.error id=(id) { (wrong) } } @else { p.hint id=(id) { (right) } }
    }
}

fn said(lang: Lang, notice: Notice<'_>) -> Markup {
    html! {
        @match notice {
            Notice::Asked(code) => section.ok role="status" {
                h2 { (lang.asked_head()) }
                p { (lang.asked()) }
                pre tabindex="0" role="group" aria-label=(lang.code()) { (code) }
            },
            Notice::Made(key, plan) => section.ok role="status" {
                h2 { (lang.made_head()) }
                p { (lang.made()) @if !plan.is_empty() { " " (lang.made_plan(plan)) } }
                pre tabindex="0" role="group" aria-label=(lang.your_key()) { (key) }
            },
            _ => section.bad role="alert" {
                h2 { (lang.refused_head()) }
                p { (notice.says(lang)) }
            },
        }
    }
}

fn has_left(lang: Lang, one: &Left) -> Markup {
    html! {
        (lang.left(one.left, one.of))
        @if one.full_in_s > 0 { "; " (lang.full_in(one.full_in_s)) }
    }
}

fn may_table(lang: Lang, operations: &[Operation], may: &[May]) -> Markup {
    html! {
        div.scroll role="group" aria-label=(lang.your_key()) tabindex="0" {
            table {
                thead { tr {
                    th scope="col" { (lang.operation()) }
                    th scope="col" { (lang.your_key()) }
                } }
                tbody {
                    @for (operation, may) in operations.iter().zip(may) {
                        tr {
                            th scope="row" { code { (verb(lang, operation)) " " (operation.path) } }
                            @match may {
                                May::Yes => td.yes { (lang.may()) },
                                May::No => td.no { (lang.may_not()) },
                                May::Depends => td { (lang.depends()) },
                                May::NotKnown => td { (lang.not_known()) },
                            }
                        }
                    }
                }
            }
        }
    }
}

fn limits(lang: Lang, api: &Api) -> Markup {
    html! {
        section aria-labelledby="limits" {
            h2 #limits { (lang.limits()) }
            @if api.limits.is_empty() { p { (lang.no_limits()) } }
            @else { (limit_table(lang, lang.limits(), &api.limits)) }
            @for plan in &api.plans {
                h3 { (lang.plan()) " " code { (plan.name) } }
                @if !plan.description.is_empty() { p { (plan.description) } }
                @if !plan.limits.is_empty() { (limit_table(lang, &plan.name, &plan.limits)) }
            }
        }
    }
}

fn limit_table(lang: Lang, label: &str, limits: &[Limit]) -> Markup {
    html! {
        div.scroll role="group" aria-label=(label) tabindex="0" {
            table {
                thead { tr {
                    th scope="col" { (lang.name()) }
                    th scope="col" { (lang.how_much()) }
                    th scope="col" { (lang.counted_by()) }
                    th scope="col" { (lang.on()) }
                } }
                tbody {
                    @for limit in limits {
                        tr {
                            th scope="row" { code { (limit.name) } }
                            td { (amount(lang, limit)) }
                            td { code { (limit.per) } }
                            td { @if limit.of.is_empty() { (lang.everything()) }
                                 @else { code { (limit.of) } } }
                        }
                    }
                }
            }
        }
    }
}

fn amount(lang: Lang, limit: &Limit) -> String {
    let rate = (!limit.rate.is_empty()).then(|| limit.rate.clone());
    let parts =
        [rate, limit.burst.map(|n| lang.burst(n)), limit.at_once.map(|n| lang.under_way(n))];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
