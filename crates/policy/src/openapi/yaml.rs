//! The wanted part of a YAML text, with lines.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};
use serde_saphyr::Spanned;

use super::node::{Node, Value, Want, object};
use super::{DOCUMENT, Problem};

pub(super) fn read(text: &str, want: &'static Want) -> Result<Node, Problem> {
    debug_assert!(std::ptr::eq(want, &raw const DOCUMENT), "the whole document is read");
    match serde_saphyr::from_str::<Spanned<Whole>>(text) {
        Ok(Spanned { value: Whole(value), referenced, .. }) => {
            Ok(Node { line: line(referenced).unwrap_or(1), value })
        }
        Err(error) => {
            let shown = error.to_string();
            let shown = shown.lines().next().unwrap_or_default();
            Err(Problem {
                line: error.location().and_then(line),
                message: format!("the document does not parse as YAML: {shown}"),
            })
        }
    }
}

fn line(location: serde_saphyr::Location) -> Option<usize> {
    usize::try_from(location.line()).ok().filter(|line| *line > 0)
}

/// The document: places are only told for types that need no word of what is wanted.
struct Whole(Value);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Whole, D::Error> {
        Seed(&DOCUMENT).deserialize(from).map(Whole)
    }
}

/// A member's name. YAML's may be other values (`200:` among responses), which nobody asks for.
enum Name {
    Text(String),
    Other,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name::Text(name.to_owned()))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Name, E> {
                Ok(Name::Other)
            }

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Name, E> {
                Ok(Name::Other)
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Name, E> {
                Ok(Name::Other)
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Name, E> {
                Ok(Name::Other)
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Name, E> {
                Ok(Name::Other)
            }
        }

        from.deserialize_any(NameVisitor)
    }
}

/// An element of a list, for its line.
struct Element(Value);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Element, D::Error> {
        // The only lists that are looked at are those of servers.
        Seed(&super::base::SERVER).deserialize(from).map(Element)
    }
}

struct Seed(&'static Want);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // A version without quotes keeps its `.0`.
        Ok(Value::Number(format!("{value:?}")))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let Want::List(_) = self.0 else {
            while from.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Other("a list"));
        };
        let mut elements = Vec::new();
        while let Some(Spanned { value: Element(value), referenced, .. }) = from.next_element()? {
            elements.push(Node { line: line(referenced).unwrap_or(1), value });
        }
        Ok(Value::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let is_wanted = matches!(self.0, Want::Object(_) | Want::Each(_));
        let mut members = Vec::new();
        while let Some(Spanned { value: name, referenced, .. }) =
            from.next_key::<Spanned<Name>>()?
        {
            let wanted = match name {
                Name::Text(name) => self.0.of(&name).map(|want| (name, want)),
                Name::Other => None,
            };
            match wanted {
                Some((name, want)) => {
                    let value = from.next_value_seed(Seed(want))?;
                    members.push((name, Node { line: line(referenced).unwrap_or(1), value }));
                }
                None => {
                    from.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !is_wanted {
            return Ok(Value::Other("an object"));
        }
        object(members).map_err(|problem| A::Error::custom(problem.message))
    }
}
