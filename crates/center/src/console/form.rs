//! Forms and queries: names and values, `application/x-www-form-urlencoded`.

/// Fields of one form or query.
const FIELDS: usize = 64;

/// Names and values in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Those of a text; none where there are too many, or one is not UTF-8.
    pub(crate) fn read(text: &str) -> Option<Fields> {
        let mut fields = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if fields.len() == FIELDS {
                return None;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            fields.push((decoded(name)?, decoded(value)?));
        }
        Some(Fields(fields))
    }

    /// A value without white space around it; empty: there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// A value as it was sent; empty: there is none.
    pub(crate) fn raw(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(of, _)| of == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A text as a part of a path or query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                let digit = char::from_digit(u32::from(nibble), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again() {
        for text in ["", "plain", "a b+c&d=e%", "user::\"\u{e9}\"", "\u{4e2d}\u{6587}\n"] {
            let read = Fields::read(&format!("{}={}", encoded("name"), encoded(text))).unwrap();
            assert_eq!(read.raw("name"), text);
        }
        assert_eq!(Fields::read("a=1+2&b&a=3").unwrap().raw("a"), "1 2");
        assert!(Fields::read("a=%").is_none() && Fields::read("a=%ff").is_none());
        assert!(Fields::read(&"a=1&".repeat(FIELDS)).is_some());
        assert!(Fields::read(&"a=1&".repeat(FIELDS + 1)).is_none());
    }
}
