//! What the console says, in each language.
//!
//! A message is a function with a text for each language, so one that is missing does not compile
//! ([`messages`]). Texts of the center (refusals, findings) are in English and marked as such.

mod messages;

use http::{HeaderMap, header};
use keepgate_api::Brought;

use super::visit::Theme;
use crate::token::Role;

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lang {
    English,
    Chinese,
}

impl Lang {
    pub(crate) const ALL: [Lang; 2] = [Lang::English, Lang::Chinese];

    /// As in HTML (BCP 47).
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Lang::English => "en",
            Lang::Chinese => "zh-Hans",
        }
    }

    /// Its name in itself.
    pub(crate) fn own_name(self) -> &'static str {
        match self {
            Lang::English => "English",
            Lang::Chinese => "\u{7b80}\u{4f53}\u{4e2d}\u{6587}",
        }
    }

    pub(crate) fn from_tag(tag: &str) -> Option<Lang> {
        Lang::ALL.into_iter().find(|lang| lang.tag() == tag)
    }

    /// The one that was chosen, else the one that the browser prefers.
    pub(crate) fn of(chosen: Option<&str>, headers: &HeaderMap) -> Lang {
        if let Some(chosen) = chosen.and_then(Lang::from_tag) {
            return chosen;
        }
        let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let mut best = (0.0, Lang::English);
        for one in accepted.unwrap_or_default().split(',') {
            let (tag, weight) = one.split_once(';').unwrap_or((one, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.parse().ok());
            let base = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
            let lang = match base.as_str() {
                "en" => Lang::English,
                "zh" => Lang::Chinese,
                _ => continue,
            };
            let weight: f64 = weight.unwrap_or(0.0);
            if weight > best.0 {
                best = (weight, lang);
            }
        }
        best.1
    }

    /// A span of time, in milliseconds.
    pub(crate) fn span(self, ms: u64) -> String {
        let seconds = ms / 1_000;
        match seconds {
            0..10 => self.seconds(format!("{:.1}", ms as f64 / 1_000.0)),
            10..120 => self.seconds(seconds),
            120..7_200 => self.minutes(seconds / 60),
            7_200..172_800 => self.hours(seconds / 3_600),
            _ => self.days_long(seconds / 86_400),
        }
    }

    /// So long ago, in milliseconds.
    pub(crate) fn ago(self, ms: u64) -> String {
        self.span_ago(self.span(ms))
    }

    pub(crate) fn minutes_ago(self, minutes: usize) -> String {
        if minutes == 0 { self.now().to_owned() } else { self.minutes_ago_long(minutes) }
    }

    pub(crate) fn role(self, role: Role) -> &'static str {
        match role {
            Role::Admin => self.role_admin(),
            Role::Editor => self.role_editor(),
            Role::Viewer => self.role_viewer(),
            Role::Gate | Role::Pep => role.name(),
        }
    }

    pub(crate) fn theme_name(self, theme: Theme) -> &'static str {
        match theme {
            Theme::System => self.theme_system(),
            Theme::Light => self.theme_light(),
            Theme::Dark => self.theme_dark(),
        }
    }

    /// Who brought an item.
    pub(crate) fn brought(self, brought: Brought) -> &'static str {
        match brought {
            Brought::Files => self.by_files(),
            Brought::Command => self.by_command(),
            Brought::Import => self.by_import(),
        }
    }

    /// By what callers are counted.
    pub(crate) fn dimension(self, by: &str) -> &'static str {
        match by {
            "addresses" => self.addresses(),
            "user_agents" => self.user_agents(),
            "routes" => self.routes(),
            _ => self.principals(),
        }
    }

    pub(crate) fn dimension_one(self, by: &str) -> &'static str {
        match by {
            "addresses" => self.address(),
            "user_agents" => self.user_agent(),
            "routes" => self.route(),
            _ => self.caller(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_choice_counts_then_what_the_browser_prefers() {
        let of = |chosen, accepted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_str(accepted).unwrap());
            Lang::of(chosen, &headers)
        };
        for (accepted, lang) in [
            ("", Lang::English),
            ("de-DE,de;q=0.9", Lang::English),
            ("zh-CN,zh;q=0.9,en;q=0.8", Lang::Chinese),
            ("en-US,en;q=0.9,zh;q=0.8", Lang::English),
            ("de, zh;q=0.5, en;q=0.2", Lang::Chinese),
            ("en;q=x, zh;q=0.1", Lang::Chinese),
        ] {
            assert_eq!(of(None, accepted), lang, "{accepted}");
        }
        assert_eq!(of(Some("en"), "zh"), Lang::English);
        assert_eq!(of(Some("tlh"), "zh"), Lang::Chinese);
    }

    #[test]
    fn spans_are_said_in_the_unit_that_fits() {
        let t = Lang::English;
        for (ms, text) in [
            (400, "0.4 s"),
            (41_000, "41 s"),
            (23 * 60_000, "23 min"),
            (5 * 3_600_000, "5 h"),
            (3 * 86_400_000, "3 days"),
        ] {
            assert_eq!(t.span(ms), text);
        }
    }
}
