//! What is sent from the page's forms: untrusted bytes in, bounded values out.

use keepgate_policy::host;

/// Bytes of a form once it is decoded.
pub const MAX_FORM: usize = 1 << 10;
/// Bytes of a form as it is sent: each byte may be written as three.
pub const MAX_SENT: usize = 3 * MAX_FORM;
/// Fields of a form.
const MAX_FIELDS: usize = 16;
/// Bytes of who asks (a bound of the protocol).
pub const MAX_WHO: usize = 200;
/// Bytes of what it is for (a bound of the protocol).
pub const MAX_WHAT_FOR: usize = 500;
/// Requests a day (a bound of the protocol).
pub const MAX_PER_DAY: u64 = 1_000_000_000;
/// Bytes of a code (a bound of the protocol).
pub const MAX_CODE: usize = 64;
/// Bytes of a key that is looked at.
pub const MAX_KEY: usize = 256;

/// The fields of a form, by name; none: it is too large, has too many, or is not UTF-8.
pub fn fields(sent: &[u8]) -> Option<Vec<(String, String)>> {
    if sent.len() > MAX_SENT {
        return None;
    }
    let (mut all, mut bytes) = (Vec::new(), 0);
    for (name, value) in form_urlencoded::parse(sent) {
        bytes += name.len() + value.len();
        // What is not UTF-8 comes as the replacement character, which nobody types.
        let is_text = !name.contains('\u{fffd}') && !value.contains('\u{fffd}');
        if all.len() == MAX_FIELDS || bytes > MAX_FORM || !is_text {
            return None;
        }
        all.push((name.into_owned(), value.into_owned()));
    }
    Some(all)
}

/// The first field of this name, without white space around it; empty: there is none.
pub fn field<'f>(fields: &'f [(String, String)], name: &str) -> &'f str {
    let found = fields.iter().find(|(of, _)| of == name);
    found.map(|(_, value)| value.trim()).unwrap_or_default()
}

/// Whether a form was sent by the page itself, by the values of `Sec-Fetch-Site` and `Origin`; `own` is the
/// host by which the page was asked for, in its one form ([`host::normal`]).
///
/// Nobody is signed in on the page, so all that another page could do is to spend what the address of its
/// visitor may ask; a program that is no browser says nothing, and is taken.
pub fn is_own(site: Option<&[u8]>, origin: Option<&[u8]>, own: &str) -> bool {
    match (site, origin) {
        (Some(b"same-origin" | b"none"), _) | (None, None) => true,
        (Some(_), _) => false,
        (None, Some(origin)) => {
            let origin = std::str::from_utf8(origin).unwrap_or_default();
            let named = origin.split_once("://").and_then(|(_, rest)| host::normal(rest).ok());
            named.is_some_and(|(name, _)| name == own)
        }
    }
}

/// A request for access within all bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who asks; one line.
    pub who: String,
    /// What for.
    pub what_for: String,
    /// Requests a day, from 1.
    pub per_day: u64,
}

/// The form as it was filled in, and what of it is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskForm {
    /// As it was written.
    pub who: String,
    /// As it was written.
    pub what_for: String,
    /// As it was written.
    pub per_day: String,
    /// `who` is empty, too long, or not one line.
    pub wrong_who: bool,
    /// `what_for` is empty or too long, or has control characters.
    pub wrong_what_for: bool,
    /// `per_day` is not a number in range.
    pub wrong_per_day: bool,
}

impl AskForm {
    /// Reads the fields `who`, `what_for` and `per_day`.
    ///
    /// # Errors
    /// The form, with what is wrong in it.
    pub fn read(fields: &[(String, String)]) -> Result<Ask, AskForm> {
        let (who, what_for) = (field(fields, "who"), field(fields, "what_for"));
        let per_day = field(fields, "per_day");
        // Browsers send line ends as two bytes.
        let what_for = what_for.replace("\r\n", "\n");
        let number = number(per_day);
        let wrong_who = who.is_empty() || who.len() > MAX_WHO || who.chars().any(char::is_control);
        let wrong_what_for = what_for.is_empty()
            || what_for.len() > MAX_WHAT_FOR
            || what_for.chars().any(|c| c.is_control() && c != '\n');
        match number {
            Some(per_day) if !wrong_who && !wrong_what_for => {
                Ok(Ask { who: who.to_owned(), what_for, per_day })
            }
            _ => Err(AskForm {
                who: who.to_owned(),
                what_for,
                per_day: per_day.to_owned(),
                wrong_who,
                wrong_what_for,
                wrong_per_day: number.is_none(),
            }),
        }
    }
}

/// As people write it: `1,200,000` or `1 200 000`.
fn number(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| !matches!(c, ',' | ' ' | '_')).collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| (1..=MAX_PER_DAY).contains(number))
}
