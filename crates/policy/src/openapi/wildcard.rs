//! Path templates of other systems in this one's spelling.
//!
//! What takes several segments elsewhere (`/files/*`, `{proxy+}`, `{+path}`, `{path:.*}`) would be a
//! literal text or a parameter of one segment here, and every real request would miss the route. At a
//! path's end it becomes `{*name}`; elsewhere it is refused, as is what has no meaning here.

use std::borrow::Cow;

/// The template in the spelling of [`crate::route`], or why it has none.
pub(crate) fn own_spelling(path: &str) -> Result<Cow<'_, str>, String> {
    let is_plain = !path.contains('*')
        && !path.contains("/:")
        && !path.contains("/<")
        && params(path).all(|name| operator(name).is_none());
    if is_plain {
        return Ok(Cow::Borrowed(path));
    }
    let segments = segments(path);
    let last = segments.len().saturating_sub(1);
    let mut out = String::with_capacity(path.len());
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            out.push('/');
        }
        match own_segment(segment, path)? {
            Own::As(own) => out.push_str(&own),
            Own::Rest(name) if index == last => out.push_str(&format!("{{*{name}}}")),
            Own::Rest(_) => {
                return Err(format!(
                    "`{segment}` takes several segments, so it must be the last one; write a \
                     parameter such as `{{name}}` for each segment"
                ));
            }
        }
    }
    Ok(Cow::Owned(out))
}

/// A segment in our spelling.
enum Own<'s> {
    As(Cow<'s, str>),
    /// All the rest of the path, by this name.
    Rest(String),
}

fn own_segment<'s>(segment: &'s str, path: &str) -> Result<Own<'s>, String> {
    if matches!(segment, "*" | "**") {
        let taken = |name: &str| params(path).any(|have| have == name);
        let free = ["rest", "rest2", "rest3"].into_iter().find(|name| !taken(name));
        return Ok(Own::Rest(free.unwrap_or("keepgate_rest").to_owned()));
    }
    if let Some(base) = tree(segment) {
        return own_segment(base, path).map(|_| Own::As(Cow::Borrowed(segment)));
    }
    let in_angles = segment.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let after_colon = segment.strip_prefix(':').filter(|name| is_name(name));
    if let Some(name) = in_angles.or(after_colon) {
        let name = name.rsplit(':').next().unwrap_or(name);
        return Err(format!("expected a parameter such as `{{{name}}}`, found `{segment}`"));
    }
    let whole = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    // `{*rest}` is ours already.
    if whole.is_some_and(|name| name.strip_prefix('*').is_some_and(is_name)) {
        return Ok(Own::As(Cow::Borrowed(segment)));
    }
    if let Some(name) = whole.filter(|name| !name.contains(['{', '}'])) {
        return match operator(name) {
            None => Ok(Own::As(Cow::Borrowed(segment))),
            Some(Operator::Several(name)) => Ok(Own::Rest(name.to_owned())),
            Some(Operator::Pattern(name)) => Ok(Own::As(Cow::Owned(format!("{{{name}}}")))),
            Some(Operator::Unknown) => Err(format!(
                "expected a parameter such as `{{name}}`, found `{segment}`; if it may be left out, \
                 write one path with it and one without"
            )),
        };
    }
    let literals = literals(segment);
    if literals.contains('*') {
        return Err(format!(
            "expected literal text or parameters, found the wildcard `*` in `{segment}`; write a \
             parameter such as `{{name}}`"
        ));
    }
    if let Some(name) = params(segment).find(|name| operator(name).is_some()) {
        return Err(format!("expected a parameter such as `{{name}}`, found `{{{name}}}`"));
    }
    Ok(Own::As(Cow::Borrowed(segment)))
}

/// What a parameter's name says beside the name.
enum Operator<'n> {
    /// It takes several segments.
    Several(&'n str),
    /// It takes one segment that fits a pattern, which a gate does not check.
    Pattern(&'n str),
    /// Something else, or nothing that is known.
    Unknown,
}

/// None: it is a name and nothing else.
fn operator(name: &str) -> Option<Operator<'_>> {
    if let Some((name, pattern)) = name.split_once(':')
        && is_name(name)
    {
        return Some(match pattern.trim() {
            "path" | "*" | ".*" | ".+" | "**" => Operator::Several(name),
            pattern if pattern.ends_with('?') => Operator::Unknown,
            _ => Operator::Pattern(name),
        });
    }
    let several = name
        .strip_suffix('+')
        .or_else(|| name.strip_suffix("..."))
        .or_else(|| name.strip_prefix('+'))
        .or_else(|| name.strip_prefix("**"))
        .or_else(|| name.strip_suffix("**").and_then(|name| name.strip_suffix('=')))
        .or_else(|| name.strip_suffix('*'));
    if let Some(name) = several {
        return Some(if is_name(name) { Operator::Several(name) } else { Operator::Unknown });
    }
    let is_odd = name.starts_with(['?', '&', '#', ';', '.', '=', '!', '|', ','])
        || name.ends_with('?')
        || name.contains(['*', '='])
        || name == "$";
    is_odd.then_some(Operator::Unknown)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$'))
}

/// `/admin` of the last segment's `admin{/*rest}`, whose slash divides no segments.
fn tree(segment: &str) -> Option<&str> {
    let (base, name) = segment.strip_suffix('}')?.rsplit_once("{/*")?;
    is_name(name).then_some(base)
}

/// The parts between slashes; a slash within braces does not count.
fn segments(path: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    path.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '/' && depth == 0
    })
    .collect()
}

/// What is in braces.
fn params(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0))
}

/// What is not in braces.
fn literals(segment: &str) -> String {
    let mut depth = 0_usize;
    segment
        .chars()
        .filter(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && *c != '}'
        })
        .collect()
}
