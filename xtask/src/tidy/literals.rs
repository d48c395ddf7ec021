//! The string literals of Rust sources. Knows just enough of the language: comments, raw strings,
//! escapes and characters. Knows no block comments, which our sources do not have.

/// The string literals of a source, each with its first line. Unit tests, which come last, are left
/// out.
pub(super) fn literals(source: &str) -> Vec<(usize, &str)> {
    let mut rest = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or(source);
    let mut found = Vec::new();
    let mut line = 1;
    while !rest.is_empty() {
        let (length, literal) = token(rest);
        found.extend(literal.map(|literal| (line, literal)));
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        line += token.matches('\n').count();
        rest = after;
    }
    found
}

/// The words and marks of a source's code, with `::` as one; without comments, literals and unit tests.
pub(super) fn tokens(source: &str) -> Vec<&str> {
    let mut rest = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or(source);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (length, literal) = token(rest);
        let length = if rest.starts_with("::") { 2 } else { length };
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let is_code = literal.is_none() && !token.starts_with("//");
        found.extend((is_code && !token.trim().is_empty()).then_some(token));
        rest = after;
    }
    found
}

/// The length of a source's first token, and what is in it if it is a string literal.
fn token(source: &str) -> (usize, Option<&str>) {
    let word = source.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(source.len());
    let (prefix, rest) = source.split_at(word);
    let quote = rest.trim_start_matches('#');
    let (fence, _) = rest.split_at(rest.len() - quote.len());
    if let ("r" | "br" | "cr", Some(text)) = (prefix, quote.strip_prefix('"')) {
        let text = text.split(&format!("\"{fence}")).next().unwrap_or(text);
        return (word + 2 * (fence.len() + 1) + text.len(), Some(text));
    }
    if let ("", Some(text)) = (prefix, rest.strip_prefix('"')) {
        let mut escaped = false;
        let end = text.find(|c: char| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let (text, _) = text.split_at(end.unwrap_or(text.len()));
        return (text.len() + 2, Some(text));
    }
    let length = if source.starts_with("//") {
        source.find('\n').unwrap_or(source.len())
    } else if source.starts_with("'\"'") || source.starts_with("'\\") {
        // A character that would begin a string, or escape one's end.
        3
    } else if word > 0 {
        word
    } else {
        source.chars().next().map_or(0, char::len_utf8)
    };
    (length, None)
}
