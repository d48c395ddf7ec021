//! What a file is: by its name, and by what stands in it where Cedar gives files of that sort no name.

use serde_json::Value;

use super::{LIMITS, LINKS, OPENAPI, ROLES, ROUTES, SERVICE};
use crate::json;

/// Directories within each other.
pub const MAX_DIRECTORIES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Service,
    Roles,
    Links,
    Limits,
    Routes,
    OpenApi,
    Schema,
    JsonSchema,
    Policies,
    JsonPolicies,
    JsonLinks,
    Entities,
    /// Words for people, and what is hidden.
    Ignored,
    /// A question to the policies, which is nothing to apply.
    Request,
    /// A file that belongs to the top of the directory.
    Astray,
    /// No path within a directory.
    NoPath,
    Unknown,
}

/// Whether a file of this name has entities, and nothing else.
pub fn is_entities_file(name: &str) -> bool {
    name.ends_with("entities.json") && is_path(name) && !is_ignored(name)
}

impl Sort {
    pub(super) fn of(name: &str, text: &str) -> Sort {
        if !is_path(name) {
            return Sort::NoPath;
        }
        if is_ignored(name) {
            return Sort::Ignored;
        }
        let base = base(name);
        let fixed = match base {
            SERVICE => Some(Sort::Service),
            ROLES => Some(Sort::Roles),
            LINKS => Some(Sort::Links),
            LIMITS => Some(Sort::Limits),
            ROUTES => Some(Sort::Routes),
            base if OPENAPI.contains(&base) => Some(Sort::OpenApi),
            _ => None,
        };
        match fixed {
            Some(sort) if base.len() == name.len() => return sort,
            Some(_) => return Sort::Astray,
            None => {}
        }
        if base.ends_with(".cedarschema") {
            // Cedar had JSON only once, under this name too.
            return match Sort::within(text) {
                Sort::JsonSchema => Sort::JsonSchema,
                _ => Sort::Schema,
            };
        }
        let ends = [
            (".cedarschema.json", Sort::JsonSchema),
            (".cedar.json", Sort::JsonPolicies),
            (".cedartemplatelinks.json", Sort::JsonLinks),
            ("entities.json", Sort::Entities),
            (".cedar", Sort::Policies),
        ];
        if let Some((_, sort)) = ends.iter().find(|(end, _)| base.ends_with(end)) {
            return *sort;
        }
        if base.ends_with(".json") || !base.contains('.') {
            Sort::within(text)
        } else {
            Sort::Unknown
        }
    }

    /// By the members that Cedar's own files of each sort have.
    fn within(text: &str) -> Sort {
        if !text.trim_start().starts_with(['{', '[']) {
            return Sort::Unknown;
        }
        match json::parse(text.as_bytes()) {
            Ok(Value::Array(list)) => match list.first() {
                Some(first) if first.get("template_id").is_some() => Sort::JsonLinks,
                Some(first) if first.get("uid").is_some() => Sort::Entities,
                _ => Sort::Unknown,
            },
            Ok(Value::Object(members)) => {
                let has = |name: &str| members.contains_key(name);
                let is_namespace = |value: &Value| {
                    value.get("entityTypes").is_some() && value.get("actions").is_some()
                };
                if ["staticPolicies", "templates", "templateLinks"].into_iter().any(has)
                    || has("effect")
                {
                    Sort::JsonPolicies
                } else if ["principal", "action", "resource"].into_iter().all(has) {
                    Sort::Request
                } else if !members.is_empty() && members.values().all(is_namespace) {
                    Sort::JsonSchema
                } else {
                    Sort::Unknown
                }
            }
            _ => Sort::Unknown,
        }
    }
}

/// A name without its directories.
pub(super) fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a name leads to a file below the directory, and to the same one everywhere.
pub fn is_path(name: &str) -> bool {
    !name.contains(['\\', '\0'])
        && name.split('/').count() <= MAX_DIRECTORIES + 1
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Words for people and what is hidden.
pub fn is_ignored(name: &str) -> bool {
    const WORDS: [&str; 2] = ["NOTES", "LICENSE"];
    let base = base(name);
    name.split('/').any(|part| part.starts_with('.'))
        || WORDS.iter().any(|word| base.starts_with(word) && !base.ends_with(".cedar"))
        || base.starts_with("README")
        || base.ends_with(".md")
}
