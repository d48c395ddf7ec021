//! Parts that pages are put together of. They have no texts of their own.

use keepgate_api as api;
use maud::{Markup, html};

use super::text::Lang;
use super::visit::Visit;

/// A drawing of 16 by 16; each has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icon {
    Ok,
    Bad,
    Warn,
    Unknown,
    Crawl,
    Plus,
    Minus,
    Gate,
    Pick,
    Chart,
    Question,
    Key,
    Page,
    People,
    Clock,
}

impl Icon {
    fn path(self) -> &'static str {
        match self {
            Icon::Ok => "m5.2 8.2 2 2 3.7-4.2",
            Icon::Bad => "M5 8h6",
            Icon::Warn => "M8 2.2 14.3 13H1.7zM8 6.4v3M8 11.2v.1",
            Icon::Unknown => "M6.4 6.5c.1-1.9 3.2-1.8 3.2 0 0 1.2-1.6 1.3-1.6 2.5M8 11.2v.1",
            Icon::Crawl => "M1.8 4h4M1.8 8h7.4M1.8 12h4M10 4.5 13.8 8 10 11.5",
            Icon::Plus => "M8 3v10M3 8h10",
            Icon::Minus => "M3 8h10",
            Icon::Gate => "M2.5 14V6.5a5.5 5.5 0 0 1 11 0V14M6 14V8M10 14V8",
            Icon::Pick => "m5 6.2 3-3 3 3M5 9.8l3 3 3-3",
            Icon::Chart => "M2 13.5h12M4 11V8M8 11V3M12 11V6",
            Icon::Question => "M6.2 6.4c.1-2.2 3.6-2.1 3.6 0 0 1.4-1.8 1.5-1.8 2.8M8 11.4v.1",
            Icon::Key => "m7 9 6.5-6.5M11 5l2 2M5 8.4a2.6 2.6 0 1 0 .1 0z",
            Icon::Page => "M4 1.8h5.5L13 5.3v8.9H4zM6.3 8h4.4M6.3 10.8h4.4",
            Icon::Clock => "M2.4 5.2A6.2 6.2 0 1 1 1.8 8M1.6 2.6v3h3M8 4.8V8l2.2 1.4",
            Icon::People => {
                "M1.8 13.4c.3-4.6 8.1-4.6 8.4 0M6 2.8a2.4 2.4 0 1 0 .1 0zM11 3.2a2.3 2.3 0 0 1 0 \
                 4.2M11.8 9.5c1.4.5 2.3 1.7 2.4 3.9"
            }
        }
    }

    /// Drawn at this size in pixels.
    pub(crate) fn at(self, size: u8) -> Markup {
        let round = matches!(self, Icon::Ok | Icon::Bad | Icon::Unknown | Icon::Question);
        let dashed = self == Icon::Unknown;
        html! {
            svg aria-hidden="true" width=(size) height=(size) viewBox="0 0 16 16" fill="none"
                stroke="currentColor" stroke-width="1.6" stroke-linecap="round"
                stroke-linejoin="round" {
                @if round {
                    circle cx="8" cy="8" r="6.2" stroke-dasharray=[dashed.then_some("2.4 2")] {}
                }
                path d=(self.path()) {}
            }
        }
    }
}

/// What a thing means; each has a color, a shape and, beside it, a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Ok,
    Bad,
    Warn,
    None,
}

impl Tone {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Tone::Ok => "ok",
            Tone::Bad => "bad",
            Tone::Warn => "warn",
            Tone::None => "none",
        }
    }
}

/// A word with its shape.
pub(crate) fn badge(tone: Tone, icon: Icon, word: &str) -> Markup {
    let dash = if icon == Icon::Unknown { " dash" } else { "" };
    html! { span class={ "b " (tone.class()) (dash) } { (icon.at(14)) (word) } }
}

/// A word that only names.
pub(crate) fn tag(word: &str) -> Markup {
    html! { span class="b tag" { (word) } }
}

/// What is not known is said.
pub(crate) fn unknown(t: Lang) -> Markup {
    html! { span class="unknown" { (t.not_known()) } }
}

/// A text of the center, which is in English.
pub(crate) fn english(t: Lang, text: &str) -> Markup {
    html! { span lang=[(t != Lang::English).then_some("en")] { (text) } }
}

/// With a comma in front of each three digits.
pub(crate) fn num(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number a second.
pub(crate) fn rate(n: f64) -> String {
    if n >= 100.0 || n == 0.0 {
        format!("{n:.0}")
    } else if n >= 1.0 {
        format!("{n:.1}")
    } else {
        format!("{n:.2}")
    }
}

/// A share of 0 to 1 in percent.
pub(crate) fn share(part: f64) -> String {
    let percent = part * 100.0;
    if percent == 0.0 || percent >= 10.0 {
        format!("{percent:.0}\u{202f}%")
    } else if percent >= 0.1 {
        format!("{percent:.1}\u{202f}%")
    } else {
        "< 0.1\u{202f}%".to_owned()
    }
}

/// Part of a whole, 0 to 1.
pub(crate) fn of(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// An entity as one writes it in Cedar.
pub(crate) fn uid(uid: &api::Uid) -> String {
    keepgate_policy::Uid { kind: uid.kind.clone(), id: uid.id.clone() }.to_string()
}

/// A panel: a head line, what it rests on, actions, and content to the edge.
pub(crate) fn panel(id: &str, title: &str, rests: &str, actions: &Markup, body: &Markup) -> Markup {
    html! {
        section class="panel" id=(id) aria-labelledby={ (id) "-h" } data-live {
            header {
                h2 id={ (id) "-h" } { (title) }
                @if !rests.is_empty() { p { (rests) } }
                @if !actions.0.is_empty() { span class="actions" { (actions) } }
            }
            (body)
        }
    }
}

/// The same, which stays as it is while somebody works in it.
pub(crate) fn still(id: &str, title: &str, rests: &str, body: &Markup) -> Markup {
    html! {
        section class="panel" id=(id) aria-labelledby={ (id) "-h" } {
            header {
                h2 id={ (id) "-h" } { (title) }
                @if !rests.is_empty() { p { (rests) } }
            }
            (body)
        }
    }
}

/// A table that scrolls sideways by itself.
pub(crate) fn table(label: &str, heads: &[(&str, bool)], rows: &Markup) -> Markup {
    html! {
        div class="scroll" role="group" aria-label=(label) tabindex="0" {
            table {
                thead {
                    tr {
                        @for (head, is_number) in heads {
                            @if head.is_empty() {
                                td {}
                            } @else {
                                th scope="col" class=[is_number.then_some("n")] { (head) }
                            }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

/// Nothing to show, and what to do.
pub(crate) fn empty(title: &str, text: &str) -> Markup {
    html! { div class="empty" { h3 { (title) } p { (text) } } }
}

/// What stays until it is mended.
pub(crate) fn notice(tone: Tone, icon: Icon, title: &str, body: &Markup) -> Markup {
    html! {
        section class={ "notice " (tone.class()) } role=[(tone != Tone::Ok).then_some("alert")] {
            (icon.at(18))
            div { h2 class="plain" { (title) } (body) }
        }
    }
}

/// A refusal of the center, in words.
pub(crate) fn refused(t: Lang, problem: &api::Problem) -> Markup {
    let title = match problem.status {
        403 => t.refused_role(),
        404 => t.refused_missing(),
        412 => t.refused_stale(),
        400 | 409 | 422 => t.refused_invalid(),
        429 => t.refused_many(),
        _ => t.refused_other(),
    };
    let rest: Vec<&api::Located> = problem.problems.iter().take(20).collect();
    let body = html! {
        p { (english(t, &problem.detail)) }
        @if rest.len() > 1 {
            ul class="list" { @for one in rest { li { (english(t, &one.message)) } } }
        }
    };
    notice(Tone::Bad, Icon::Bad, title, &body)
}

/// A short notice that something was done.
pub(crate) fn done(text: &str) -> Markup {
    html! {
        section class="notice ok" role="status" { (Icon::Ok.at(18)) div { p { (text) } } }
    }
}

/// What each form has beside its fields: that this page made it, and that it is one deed.
pub(crate) fn hidden(visit: &Visit) -> Markup {
    let once = crate::store::random::<12>().map(|bytes| crate::token::hex(&bytes));
    html! {
        input type="hidden" name="csrf" value=(visit.csrf());
        @if let Ok(once) = once { input type="hidden" name="once" value=(once); }
    }
}

/// Fields that go on with a form.
pub(crate) fn carried(fields: &[(&str, &str)]) -> Markup {
    html! { @for (name, value) in fields { input type="hidden" name=(name) value=(value); } }
}

/// One line of input with its name.
pub(crate) struct Field<'a> {
    pub(crate) name: &'a str,
    pub(crate) label: &'a str,
    pub(crate) value: &'a str,
    pub(crate) hint: &'a str,
    pub(crate) needed: bool,
}

impl Field<'_> {
    pub(crate) fn show(&self) -> Markup {
        self.shown(None)
    }

    /// The same, completed from the list of this name (`complete`).
    pub(crate) fn completed(&self) -> Markup {
        self.shown(Some(&format!("list-{}", self.name)))
    }

    fn shown(&self, list: Option<&str>) -> Markup {
        let hint = (!self.hint.is_empty()).then(|| format!("f-{}-hint", self.name));
        html! {
            div class="field" {
                label for={ "f-" (self.name) } { (self.label) }
                input class="mono" id={ "f-" (self.name) } name=(self.name) value=(self.value)
                    autocomplete="off" spellcheck="false" autocapitalize="off" list=[list]
                    required[self.needed] aria-describedby=[hint.as_deref()];
                @if let Some(id) = &hint { span class="hint" id=(id) { (self.hint) } }
            }
        }
    }
}

/// The next page of a list, and how to get back to its beginning.
pub(crate) fn pages(t: Lang, base: &str, after: &str, next: Option<&str>) -> Markup {
    html! {
        @if !after.is_empty() || next.is_some() {
            footer {
                @if !after.is_empty() { a href=(base) { (t.first_page()) } }
                @if let Some(next) = next {
                    a href={ (base) "&after=" (super::form::encoded(next)) } { (t.next_page()) }
                }
            }
        }
    }
}

/// What a change gives and takes, and the deed.
pub(crate) struct Preview<'a> {
    pub(crate) title: &'a str,
    pub(crate) gives: Vec<String>,
    pub(crate) takes: Vec<String>,
    pub(crate) note: &'a str,
    pub(crate) action: &'a str,
    pub(crate) carried: Vec<(&'a str, &'a str)>,
    pub(crate) deed: &'a str,
    pub(crate) danger: bool,
    pub(crate) back: &'a str,
}

impl Preview<'_> {
    pub(crate) fn show(&self, visit: &Visit) -> Markup {
        let t = visit.lang;
        let body = html! {
            form method="post" action=(self.action) {
                (hidden(visit))
                (carried(&self.carried))
                input type="hidden" name="do" value="make";
                div class="in" {
                    @if self.gives.is_empty() && self.takes.is_empty() {
                        p class="quiet" { (t.nothing_by_grants()) }
                    }
                    ul class="gt" {
                        @for gain in &self.gives {
                            li { span class="ok" { (Icon::Plus.at(14)) } span { (gain) } }
                        }
                        @for loss in &self.takes {
                            li { span class="bad" { (Icon::Minus.at(14)) } span { (loss) } }
                        }
                    }
                    p class="quiet small" { (self.note) }
                }
                footer {
                    a class="btn" href=(self.back) { (t.cancel()) }
                    button class={ "btn " (if self.danger { "danger" } else { "primary" }) } {
                        (self.deed)
                    }
                }
            }
        };
        still("preview", self.title, t.nothing_changes_yet(), &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(num(n), text);
        }
        assert_eq!(
            (rate(0.0), rate(0.14), rate(41.23)),
            ("0".into(), "0.14".into(), "41.2".into())
        );
        assert_eq!((share(0.0), share(0.008)), ("0\u{202f}%".into(), "0.8\u{202f}%".into()));
        assert_eq!((share(0.000_1), of(1, 0)), ("< 0.1\u{202f}%".into(), 0.0));
    }
}
