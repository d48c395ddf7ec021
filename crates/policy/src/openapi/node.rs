//! The part of a document that is looked at, with its lines; made by the readers of JSON and YAML.

use super::{Problem, Problems};

/// What is looked at of a value; all else is skipped.
#[derive(Debug)]
pub(super) enum Want {
    /// A text, a number, `true`, `false` or nothing.
    Leaf,
    /// Members of these names, and those whose name begins with `x-keepgate-`.
    Object(&'static [(&'static str, &'static Want)]),
    /// Members of any name.
    Each(&'static Want),
    /// All elements.
    List(&'static Want),
}

/// A value and its line.
#[derive(Debug)]
pub(super) struct Node {
    /// Of the member's name, counted from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the document's order; a name may occur more than once.
    Object(Vec<(String, Node)>),
    /// Not of the form that is looked at: what it is instead.
    Other(&'static str),
}

/// Members of documents that are Keepgate's.
const OURS: &str = "x-keepgate-";

impl Want {
    /// What is looked at of a member; none: nothing. A member of ours that nobody asks for is kept, to
    /// be refused by name.
    pub(super) fn of(&self, name: &str) -> Option<&'static Want> {
        match self {
            Want::Object(known) => {
                let found = known.iter().find(|(have, _)| *have == name).map(|(_, want)| *want);
                found.or_else(|| name.starts_with(OURS).then_some(&Want::Leaf))
            }
            Want::Each(want) => {
                (!name.starts_with("x-") || name.starts_with(OURS)).then_some(*want)
            }
            Want::Leaf | Want::List(_) => None,
        }
    }
}

impl Value {
    /// Of which sort it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
            Value::Other(what) => what,
        }
    }
}

impl Node {
    /// The members of an object; none where it is another value.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Node)> {
        let members = match &self.value {
            Value::Object(members) => members.as_slice(),
            _ => &[],
        };
        members.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// The first member of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.members().find(|(have, _)| *have == name).map(|(_, node)| node)
    }

    pub(super) fn elements(&self) -> &[Node] {
        match &self.value {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text, or what YAML took for another value because it has no quotes.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text.clone()),
            Value::Bool(b) => Some(b.to_string()),
            _ => None,
        }
    }

    /// Refuses members of ours that have no meaning here.
    pub(super) fn refuse_ours(&self, what: &str, known: &[&str], problems: &mut Problems) {
        for (name, node) in self.members() {
            if name.starts_with(OURS) && !known.contains(&name) {
                problems.add(node.line, format!("`{name}` has no meaning in {what}"));
            }
        }
    }
}

/// Members for people alone: of two, the first is read.
const WORDS: [&str; 2] = ["summary", "description"];

/// An object, if no member's name occurs twice.
pub(super) fn object(members: Vec<(String, Node)>) -> Result<Value, Problem> {
    let mut lines = std::collections::HashMap::with_capacity(members.len());
    for (name, node) in &members {
        if let Some(first) = lines.insert(name.as_str(), node.line)
            && !WORDS.contains(&name.as_str())
        {
            let message = format!("`{name}` occurs twice in one object, first in line {first}");
            return Err(Problem { line: Some(node.line), message });
        }
    }
    Ok(Value::Object(members))
}
