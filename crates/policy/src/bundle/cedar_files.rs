//! `*.cedar`: files of any number of policies and templates, one item each.
//!
//! A policy's text is what stands in the file from the end of the one before, comments
//! included, without white space around it. Its id is the first of: its annotation `@id("..")`;
//! a line `//@ id: ".."` in front of it, which is not part of the text (`render` writes it where the
//! id would otherwise be another); the file's name without `.cedar` for the first policy of the
//! file and with `#2`, `#3` .. behind it for the others. An item remembers its file only if that is
//! not the one its id would have by itself.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::Reader;
use super::line::Lines;
use crate::cedar_text::{self, PolicyError, Sort};
use crate::model::{Item, ItemBody, PolicyBody};

/// Bytes of the longest file name that file systems take.
const MAX_NAME: usize = 255;

/// Bytes of a long id's file name before its hash.
const NAME_START: usize = 180;

/// Begins the names of files that gather policies without a file of their own; such an item does not
/// remember the file, or an export that is applied would change it.
const GATHERED: &str = "+policies-";

/// Policies with files of their own that one directory has; more are gathered.
const OWN_FILES: usize = 500;

/// Policies in a file that gathers them, at least.
const IN_GATHERED: usize = 1_000;

/// Starts a line that gives the next policy's id, as a JSON string.
pub(crate) const MARKER: &str = "//@ id:";
const END: &str = ".cedar";

/// One policy or template within a file.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'a> {
    /// Where the text starts.
    offset: usize,
    text: &'a str,
    /// The marker's id, still as a JSON string.
    marker: Option<&'a str>,
    /// Whether a `?` stands outside of comments and strings.
    has_slot: bool,
}

/// The item of one policy that stands in no file of this sort; `key` is its id unless it says another.
pub(super) fn item_of_text(service: &str, key: &str, text: &str) -> Result<Item, PolicyError> {
    let has_slot = pieces(text).first().is_some_and(|piece| piece.has_slot);
    let piece = Piece { offset: 0, text, marker: None, has_slot };
    item_of(service, "", key, 0, &piece)
}

pub(super) fn parse(reader: &mut Reader, file: &str, text: &str) {
    let stem = decoded_name(file.strip_suffix(END).unwrap_or(file));
    let lines = Lines::of(text);
    let mut ids = Vec::new();
    for (index, piece) in pieces(text).into_iter().enumerate() {
        let line = lines.at(piece.offset);
        let column = lines.column(text, piece.offset);
        match item_of(&reader.service, file, &stem, index, &piece) {
            Ok(item) => {
                ids.push(item.key.id.clone());
                reader.put_at(file, (line, column), item);
            }
            Err(error) => {
                // The places of those behind it stay.
                ids.push(String::new());
                reader.text_errors(file, (line, column), error);
            }
        }
    }
    reader.order.insert(file.to_owned(), ids);
}

fn item_of(
    service: &str,
    file: &str,
    stem: &str,
    index: usize,
    piece: &Piece<'_>,
) -> Result<Item, PolicyError> {
    let error = |message: String| PolicyError::whole(message);
    let sort = if piece.has_slot { Sort::Template } else { Sort::Policy };
    let annotation = cedar_text::annotated_id(sort, piece.text)?;
    if annotation.as_deref() == Some("") {
        return Err(error("`@id` is empty; write `@id(\"..\")`".to_owned()));
    }
    let marker = match piece.marker.map(serde_json::from_str::<String>) {
        None => None,
        Some(Ok(id)) if !id.is_empty() => Some(id),
        Some(_) => {
            return Err(error(format!("`{MARKER}` is followed by the id in double quotes")));
        }
    };
    let id = match (annotation, marker) {
        (Some(a), Some(m)) if a != m => {
            return Err(error(format!("the policy has two ids, `{a}` and `{m}`")));
        }
        (Some(id), _) | (None, Some(id)) => id,
        (None, None) if index == 0 => stem.to_owned(),
        (None, None) => format!("{stem}#{}", index + 1),
    };
    let body = PolicyBody { text: piece.text.to_owned(), file: file.to_owned() };
    let body = if piece.has_slot { ItemBody::Template(body) } else { ItemBody::Policy(body) };
    Ok(Item::new(service, &id, body))
}

/// The policies of a file; comments belong to the policy they stand before, those on the line of
/// a `;` and those after the last policy to the one they stand behind.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let bytes = text.as_bytes();
    let at = |index: usize| bytes.get(index).copied();
    let mut pieces: Vec<Span> = Vec::new();
    let mut open = Span::from(0);
    let mut index = 0;
    while let Some(byte) = at(index) {
        match byte {
            b'"' => {
                open.has_code = true;
                index += 1;
                while let Some(inner) = at(index).filter(|b| *b != b'"') {
                    index += if inner == b'\\' { 2 } else { 1 };
                }
                index += 1;
            }
            b'/' if at(index + 1) == Some(b'/') => {
                let end = line_end(bytes, index);
                if let Some(id) = marker(text, index, end)
                    && !open.has_code
                {
                    // What stands before a marker belongs to the policy before it.
                    if let Some(last) = pieces.last_mut() {
                        last.end = index;
                    }
                    open = Span { marker: Some(id), ..Span::from(end) };
                }
                index = end;
            }
            b';' => {
                open.has_code = true;
                index += 1;
                let mut after = index;
                while matches!(at(after), Some(b' ' | b'\t')) {
                    after += 1;
                }
                if at(after) == Some(b'/') && at(after + 1) == Some(b'/') {
                    index = line_end(bytes, after);
                }
                open.end = index;
                pieces.push(std::mem::replace(&mut open, Span::from(index)));
            }
            _ => {
                open.has_code |= !byte.is_ascii_whitespace();
                open.has_slot |= byte == b'?';
                index += 1;
            }
        }
    }
    if open.has_code {
        open.end = text.len();
        pieces.push(open);
    } else if let Some(last) = pieces.last_mut() {
        last.end = text.len();
    }
    let piece = |span: Span| {
        let whole = text.get(span.start..span.end.min(text.len())).unwrap_or_default();
        Piece {
            offset: span.start + whole.len() - whole.trim_start().len(),
            text: whole.trim(),
            marker: span.marker.and_then(|(start, end)| text.get(start..end)),
            has_slot: span.has_slot,
        }
    };
    pieces.into_iter().map(piece).collect()
}

#[derive(Default)]
struct Span {
    start: usize,
    end: usize,
    marker: Option<(usize, usize)>,
    has_code: bool,
    has_slot: bool,
}

impl Span {
    fn from(start: usize) -> Span {
        Span { start, ..Span::default() }
    }
}

/// The offset of the line's end, before its newline.
fn line_end(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| from + at)
}

/// The id's place if the comment is a marker at the start of its line.
fn marker(text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let before = text.get(..start)?;
    let id = text.get(start..end)?.strip_prefix(MARKER)?;
    let alone = before.trim_end_matches([' ', '\t']);
    let at_start = alone.is_empty() || alone.ends_with('\n');
    at_start.then(|| {
        (
            end - id.len() + (id.len() - id.trim_start().len()),
            start + MARKER.len() + id.trim_end().len(),
        )
    })
}

pub(super) fn render(items: &[&Item]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, Vec<(&str, &str)>> = BTreeMap::new();
    let mut own: Vec<(&str, &str)> = Vec::new();
    for item in items {
        if let ItemBody::Policy(body) | ItemBody::Template(body) = &item.body {
            let policy = (item.key.id.as_str(), body.text.as_str());
            match body.file.is_empty() {
                true => own.push(policy),
                false => files.entry(body.file.clone()).or_default().push(policy),
            }
        }
    }
    if own.len() <= OWN_FILES {
        for policy in own {
            files.entry(file_of(policy.0)).or_default().push(policy);
        }
    } else {
        let most = IN_GATHERED.max(own.len().div_ceil(OWN_FILES));
        for (number, policies) in own.chunks(most).enumerate() {
            files.insert(format!("{GATHERED}{}{END}", number + 1), policies.to_vec());
        }
    }
    files
        .into_iter()
        .map(|(file, policies)| {
            let text = file_text(&file, policies);
            (file, text)
        })
        .collect()
}

fn file_text(file: &str, policies: Vec<(&str, &str)>) -> String {
    let stem = decoded_name(file.strip_suffix(END).unwrap_or(file));
    // Those whose id is a place in this file go there, the others between them.
    let mut placed: BTreeMap<usize, (&str, &str)> = BTreeMap::new();
    let mut free: Vec<(&str, &str)> = Vec::new();
    for (id, text) in policies {
        let place = match id.strip_prefix(stem.as_str()) {
            Some("") => Some(0),
            Some(rest) => rest
                .strip_prefix('#')
                .and_then(|n| n.parse::<usize>().ok().filter(|n| *n > 1))
                .map(|n| n - 1),
            None => None,
        };
        match place {
            Some(place) if !placed.contains_key(&place) => {
                placed.insert(place, (id, text));
            }
            _ => free.push((id, text)),
        }
    }
    let mut ordered = Vec::with_capacity(placed.len() + free.len());
    let mut free = free.into_iter();
    for (place, policy) in placed {
        while ordered.len() < place {
            let Some(other) = free.next() else { break };
            ordered.push(other);
        }
        ordered.push(policy);
    }
    ordered.extend(free);

    let plain: String = ordered.iter().map(|(_, text)| format!("{text}\n\n")).collect();
    let plain = format!("{}\n", plain.trim_end());
    if reads_as(file, &stem, &plain, &ordered) {
        return plain;
    }
    let marked: String = ordered
        .iter()
        .map(|(id, text)| format!("{MARKER} {}\n{text}\n\n", serde_json::Value::from(*id)))
        .collect();
    format!("{}\n", marked.trim_end())
}

fn reads_as(file: &str, stem: &str, text: &str, policies: &[(&str, &str)]) -> bool {
    let pieces = pieces(text);
    pieces.len() == policies.len()
        && pieces.iter().zip(policies).enumerate().all(|(index, (piece, (id, text)))| {
            piece.text == *text
                && item_of("service", file, stem, index, piece).is_ok_and(|item| item.key.id == *id)
        })
}

/// The file that a policy has by itself: its id, with bytes that file names do not agree on
/// written as `%XX`.
pub(crate) fn file_of(id: &str) -> String {
    let mut name = String::with_capacity(id.len() + END.len());
    for (index, byte) in id.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric()
            || b"-_#@+=,~".contains(&byte)
            || (byte == b'.' && index > 0)
            || (byte == b' ' && index > 0);
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    // A file that starts with README is not read.
    if let Some(rest) = name.strip_prefix("README") {
        name = format!("%52EADME{rest}");
    }
    // Ids are longer than file names may be; then the file says the id, and its name is a hash's.
    if name.len() + END.len() > MAX_NAME {
        let hash = Sha256::digest(id.as_bytes());
        name.truncate(NAME_START);
        name.push('~');
        hash.iter().take(16).for_each(|byte| name.push_str(&format!("{byte:02x}")));
    }
    name.push_str(END);
    name
}

/// Whether a policy of this id is in such a file without remembering it.
pub(crate) fn is_own_file(file: &str, id: &str) -> bool {
    file == file_of(id) || file.starts_with(GATHERED)
}

fn decoded_name(stem: &str) -> String {
    crate::router::decoded(stem).map_or_else(|_| stem.to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{parse, render as render_all};
    use crate::model::ItemKey;

    fn policies(ids: impl Iterator<Item = String>) -> Vec<Item> {
        let service = crate::service::ServiceSettings::named("s");
        let mut items = vec![Item::new("s", "", ItemBody::Service(Box::new(service)))];
        for (at, id) in ids.enumerate() {
            let text = format!("permit (principal == user::\"{at}\", action, resource);");
            let body = PolicyBody { text, file: String::new() };
            items.push(Item::new("s", &id, ItemBody::Policy(body)));
        }
        items.sort_by(|a, b| a.key.cmp(&b.key));
        items
    }

    fn comes_back(items: &[Item]) -> BTreeMap<String, String> {
        let files = render_all("s", items);
        assert!(files.keys().all(|name| name.len() <= MAX_NAME), "a name is too long");
        assert_eq!(parse(&files).unwrap().items, items);
        files
    }

    #[test]
    fn long_ids_have_files_whose_names_are_not() {
        let longest = MAX_NAME - END.len();
        for length in [longest - 1, longest, longest + 1, 1_000] {
            let ids =
                [format!("{}a", "x".repeat(length - 1)), format!("{}b", "x".repeat(length - 1))];
            assert_eq!(comes_back(&policies(ids.into_iter())).len(), 3, "{length}");
        }
        let wide = comes_back(&policies(std::iter::once("\u{1f600}".repeat(60))));
        assert_eq!(wide.len(), 2);
    }

    #[test]
    fn many_policies_are_gathered_in_few_files() {
        for (count, files) in [(OWN_FILES, OWN_FILES + 1), (OWN_FILES + 1, 2), (2_500, 4)] {
            let items = policies((0..count).map(|n| format!("p{n}")));
            assert_eq!(comes_back(&items).len(), files, "{count}");
        }
        let key = ItemKey::policy("s", "p");
        let body = PolicyBody {
            text: "permit (principal, action, resource);".into(),
            file: "+policies-9.cedar".into(),
        };
        let item = Item { key, body: ItemBody::Policy(body) }.canonical();
        assert!(matches!(item.body, ItemBody::Policy(body) if body.file.is_empty()));
    }
}
