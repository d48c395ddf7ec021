//! Cedar's JSON files: schemas, policies (one, or a set with its links), and the links of templates that
//! Cedar's command line reads. All of it becomes the items that the text forms give.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::sort::base;
use super::{Reader, cedar_files};
use crate::cedar_text::{self, PolicyError};
use crate::json::{self, JsonError};
use crate::model::{Item, ItemBody, LinkBody, SchemaBody, Uid};

const STATIC: &str = "staticPolicies";
const TEMPLATES: &str = "templates";
const SET_LINKS: &str = "templateLinks";

pub(super) fn parse_schema(reader: &mut Reader, file: &str, text: &str) {
    match cedar_text::schema_text(text) {
        Ok(text) => {
            let body = ItemBody::Schema(SchemaBody { text });
            reader.put(file, 1, Item::new(&reader.service, "", body));
        }
        Err(error) => reader.text_errors(file, (1, 1), error),
    }
}

pub(super) fn parse_policies(reader: &mut Reader, file: &str, text: &str) {
    let Some(value) = read(reader, file, text) else { return };
    let lines = Places::of(text);
    let Value::Object(members) = value else {
        return reader.error(file, Some(1), "expected one policy or a policy set, a JSON object");
    };
    if members.contains_key("effect") {
        let stem = stem(file);
        policy(reader, file, 1, &stem, &Value::Object(members));
        return;
    }
    if let Some(other) =
        members.keys().find(|name| ![STATIC, TEMPLATES, SET_LINKS].contains(&name.as_str()))
    {
        let message = format!(
            "unknown member `{other}`; a policy set has `{STATIC}`, `{TEMPLATES}` and `{SET_LINKS}`"
        );
        return reader.error(file, Some(lines.line("", other)), message);
    }
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for part in [STATIC, TEMPLATES] {
        match members.get(part) {
            None => {}
            Some(Value::Object(policies)) => {
                for (key, value) in policies {
                    let line = lines.line(part, key);
                    if let Some(id) = policy(reader, file, line, key, value) {
                        ids.insert(key.clone(), id);
                    }
                }
            }
            Some(_) => {
                let message = format!("`{part}` is an object: a policy by each id");
                reader.error(file, Some(lines.line("", part)), message);
            }
        }
    }
    match members.get(SET_LINKS) {
        None => {}
        Some(Value::Array(list)) => {
            for (at, value) in list.iter().enumerate() {
                let line = lines.line(SET_LINKS, &at.to_string());
                set_link(reader, file, line, &ids, value);
            }
        }
        Some(_) => {
            let message = format!("`{SET_LINKS}` is a list");
            reader.error(file, Some(lines.line("", SET_LINKS)), message);
        }
    }
}

/// One policy or template; its id, if it is one.
fn policy(
    reader: &mut Reader,
    file: &str,
    line: usize,
    key: &str,
    value: &Value,
) -> Option<String> {
    let item = cedar_text::policy_text(value)
        .and_then(|text| cedar_files::item_of_text(&reader.service, key, &text));
    match item {
        Ok(item) => {
            let id = item.key.id.clone();
            reader.put(file, line, item);
            Some(id)
        }
        Err(error) => {
            reader.text_errors(file, (line, 1), PolicyError { spot: None, ..error });
            None
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SetLink {
    template_id: String,
    new_id: String,
    values: BTreeMap<String, Value>,
}

fn set_link(
    reader: &mut Reader,
    file: &str,
    line: usize,
    ids: &BTreeMap<String, String>,
    value: &Value,
) {
    let link = match SetLink::deserialize(value) {
        Ok(link) => link,
        Err(error) => return reader.error(file, Some(line), error.to_string()),
    };
    let entity = |value: &Value| {
        let inner = value.get("__entity").unwrap_or(value);
        Uid::deserialize(inner)
            .map_err(|_| "an entity is written `{\"type\": \"..\", \"id\": \"..\"}`".to_owned())
    };
    match slots(&link.values, entity) {
        Ok([principal, resource]) => {
            let template = ids.get(&link.template_id).unwrap_or(&link.template_id).clone();
            let body = ItemBody::Link(LinkBody { template, principal, resource });
            reader.put(file, line, Item::new(&reader.service, &link.new_id, body));
        }
        Err(message) => reader.error(file, Some(line), message),
    }
}

/// The values of the two slots that Cedar has.
fn slots<V>(
    values: &BTreeMap<String, V>,
    entity: impl Fn(&V) -> Result<Uid, String>,
) -> Result<[Option<Uid>; 2], String> {
    if let Some(other) =
        values.keys().find(|name| !["?principal", "?resource"].contains(&name.as_str()))
    {
        return Err(format!("unknown slot `{other}`; Cedar has `?principal` and `?resource`"));
    }
    let of = |slot: &str| values.get(slot).map(&entity).transpose();
    Ok([of("?principal")?, of("?resource")?])
}

/// A link as Cedar's command line reads it (`--template-linked`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandLink {
    template_id: String,
    link_id: String,
    #[serde(default)]
    args: BTreeMap<String, String>,
}

/// A link whose template may be told by its place: Cedar's command line calls the policies of its one
/// file `policy0`, `policy1` and so on where they have no `@id`.
pub(super) struct Pending {
    file: String,
    line: usize,
    id: String,
    body: LinkBody,
}

pub(super) fn parse_links(reader: &mut Reader, file: &str, text: &str) {
    let Some(value) = read(reader, file, text) else { return };
    let lines = Places::of(text);
    let Value::Array(list) = value else {
        return reader.error(file, Some(1), "expected a list of links, a JSON list");
    };
    for (at, value) in list.iter().enumerate() {
        let line = lines.line("", &at.to_string());
        let link = match CommandLink::deserialize(value) {
            Ok(link) => link,
            Err(error) => {
                reader.error(file, Some(line), error.to_string());
                continue;
            }
        };
        match slots(&link.args, |text| text.parse::<Uid>().map_err(|e| e.to_string())) {
            Ok([principal, resource]) => {
                let body = LinkBody { template: link.template_id, principal, resource };
                let (file, id) = (file.to_owned(), link.link_id);
                reader.pending.push(Pending { file, line, id, body });
            }
            Err(message) => reader.error(file, Some(line), message),
        }
    }
}

/// Links whose templates are known, once all files are read.
pub(super) fn settle(reader: &mut Reader) {
    for Pending { file, line, id, mut body } in std::mem::take(&mut reader.pending) {
        let by_place = |ids: &Vec<String>| {
            let at = body.template.strip_prefix("policy")?.parse::<usize>().ok()?;
            ids.get(at).cloned()
        };
        let mut files = reader.order.values();
        if !files.any(|ids| ids.contains(&body.template))
            && let (Some(only), 1) = (reader.order.values().next(), reader.order.len())
            && let Some(template) = by_place(only)
        {
            body.template = template;
        }
        reader.put(&file, line, Item::new(&reader.service, &id, ItemBody::Link(body)));
    }
}

/// JSON without a member that occurs twice; else an error of the file.
fn read(reader: &mut Reader, file: &str, text: &str) -> Option<Value> {
    match json::parse(text.as_bytes()) {
        Ok(value) => Some(value),
        Err(JsonError::Repeated(error) | JsonError::Syntax(error)) => {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            reader.error(file, Some(error.line()).filter(|line| *line > 0), message);
            None
        }
    }
}

/// A file's name without its ends.
fn stem(file: &str) -> String {
    let name = base(file);
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let stem = stem.strip_suffix(".cedar").unwrap_or(stem);
    let directories = file.strip_suffix(name).unwrap_or_default();
    format!("{directories}{stem}")
}

/// The lines of the members (and elements) of a JSON text, and of those within them.
struct Places {
    /// By the member around it (empty at the top) and the name, or the place in a list.
    lines: HashMap<(String, String), usize>,
}

/// An object or list that is open.
struct Open {
    is_list: bool,
    /// The member that the reader is at.
    name: String,
    count: usize,
    awaits_name: bool,
}

impl Places {
    /// Reads well-formed JSON; of other texts it says something wrong and nothing worse.
    fn of(text: &str) -> Places {
        let mut places = Places { lines: HashMap::new() };
        let bytes = text.as_bytes();
        let (mut open, mut line, mut at): (Vec<Open>, usize, usize) = (Vec::new(), 1, 0);
        while let Some(byte) = bytes.get(at).copied() {
            let start = at;
            at += 1;
            match byte {
                b'\n' => line += 1,
                b'"' => {
                    while let Some(inner) = bytes.get(at).copied().filter(|b| *b != b'"') {
                        at += if inner == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                    if let Some(innermost) = open.last_mut().filter(|open| open.awaits_name) {
                        let name = text.get(start..at).unwrap_or_default();
                        innermost.name = serde_json::from_str(name).unwrap_or_default();
                        innermost.awaits_name = false;
                        let name = innermost.name.clone();
                        places.note(&open, name, line);
                    } else {
                        places.element(&open, line);
                    }
                }
                b'{' | b'[' => {
                    places.element(&open, line);
                    let is_list = byte == b'[';
                    open.push(Open {
                        is_list,
                        name: String::new(),
                        count: 0,
                        awaits_name: !is_list,
                    });
                }
                b'}' | b']' => drop(open.pop()),
                b',' => {
                    if let Some(innermost) = open.last_mut() {
                        innermost.count += 1;
                        innermost.awaits_name = !innermost.is_list;
                    }
                }
                b':' | b' ' | b'\t' | b'\r' => {}
                _ => places.element(&open, line),
            }
        }
        places
    }

    fn element(&mut self, open: &[Open], line: usize) {
        if let Some(list) = open.last().filter(|open| open.is_list) {
            self.note(open, list.count.to_string(), line);
        }
    }

    fn note(&mut self, open: &[Open], name: String, line: usize) {
        let around = match open {
            [_] => String::new(),
            [outer, _] => outer.name.clone(),
            _ => return,
        };
        self.lines.entry((around, name)).or_insert(line);
    }

    fn line(&self, around: &str, name: &str) -> usize {
        self.lines.get(&(around.to_owned(), name.to_owned())).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_their_lines() {
        let text =
            "{\n\"a\": {\"x\": 1,\n \"y\\\"\": {\"x\": [\"a\"]}},\n\"l\": [1,\n{\"x\": 1}, \n[]]}";
        let places = Places::of(text);
        let wanted = [
            ("", "a", 2),
            ("a", "x", 2),
            ("a", "y\"", 3),
            ("", "l", 4),
            ("l", "0", 4),
            ("l", "1", 5),
            ("l", "2", 6),
        ];
        for (around, name, line) in wanted {
            assert_eq!(places.line(around, name), line, "{around} {name}");
        }
        assert_eq!(Places::of("[1,\n2]").line("", "1"), 2);
    }

    #[test]
    fn stems_keep_directories() {
        for (file, wanted) in [("a.cedar.json", "a"), ("x/b.json", "x/b"), ("c", "c")] {
            assert_eq!(stem(file), wanted);
        }
    }
}
