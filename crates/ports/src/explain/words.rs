//! Which error a line names: by words, in any language of the C library, or by number.

use super::catalog::CATALOG;

/// The errors that this command tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Errno {
    AddrNotAvail,
    AddrInUse,
    ManyFiles,
    NetUnreach,
    HostUnreach,
    TimedOut,
    Refused,
    Again,
    NotPermitted,
    Reset,
}

/// Words in lower case, and the error they stand for. Of several in a line the first of this list
/// wins.
const WORDS: &[(&str, Errno)] = &[
    ("cannot assign requested address", Errno::AddrNotAvail),
    ("can't assign requested address", Errno::AddrNotAvail),
    ("can\u{2019}t assign requested address", Errno::AddrNotAvail),
    ("cannot assign the requested address", Errno::AddrNotAvail),
    ("could not assign requested address", Errno::AddrNotAvail),
    ("cannot_assign_requested_address", Errno::AddrNotAvail),
    ("eaddrnotavail", Errno::AddrNotAvail),
    ("addrnotavail", Errno::AddrNotAvail),
    ("addressnotavailable", Errno::AddrNotAvail),
    ("address not available", Errno::AddrNotAvail),
    ("requested address is not valid in its context", Errno::AddrNotAvail),
    // HAProxy says what it concludes.
    ("no free ports", Errno::AddrNotAvail),
    ("out of local source ports", Errno::AddrNotAvail),
    ("out of source ports", Errno::AddrNotAvail),
    ("source port range exhausted", Errno::AddrNotAvail),
    ("can't bind to source address", Errno::AddrNotAvail),
    ("cannot bind to source address", Errno::AddrNotAvail),
    ("cannot bind to tproxy source address", Errno::AddrNotAvail),
    ("local source address already in use", Errno::AddrInUse),
    ("address already in use", Errno::AddrInUse),
    ("address in use", Errno::AddrInUse),
    ("eaddrinuse", Errno::AddrInUse),
    ("addrinuse", Errno::AddrInUse),
    ("addressalreadyinuse", Errno::AddrInUse),
    ("too many open files", Errno::ManyFiles),
    ("emfile", Errno::ManyFiles),
    ("enfile", Errno::ManyFiles),
    ("no file descriptors available", Errno::ManyFiles),
    ("network is unreachable", Errno::NetUnreach),
    ("network unreachable", Errno::NetUnreach),
    ("enetunreach", Errno::NetUnreach),
    ("no route to host", Errno::HostUnreach),
    ("host is unreachable", Errno::HostUnreach),
    ("host unreachable", Errno::HostUnreach),
    ("ehostunreach", Errno::HostUnreach),
    ("connection timed out", Errno::TimedOut),
    ("connect timed out", Errno::TimedOut),
    ("operation timed out", Errno::TimedOut),
    ("i/o timeout", Errno::TimedOut),
    ("etimedout", Errno::TimedOut),
    ("timed out", Errno::TimedOut),
    ("connection refused", Errno::Refused),
    ("econnrefused", Errno::Refused),
    ("resource temporarily unavailable", Errno::Again),
    ("eagain", Errno::Again),
    ("operation not permitted", Errno::NotPermitted),
    ("eperm", Errno::NotPermitted),
    ("connection reset", Errno::Reset),
    ("econnreset", Errno::Reset),
];

/// Linux's numbers (`include/uapi/asm-generic/errno.h`; 10049 and 10048 are Windows').
const NUMBERS: &[(u32, Errno)] = &[
    (99, Errno::AddrNotAvail),
    (10_049, Errno::AddrNotAvail),
    (98, Errno::AddrInUse),
    (10_048, Errno::AddrInUse),
    (24, Errno::ManyFiles),
    (23, Errno::ManyFiles),
    (101, Errno::NetUnreach),
    (113, Errno::HostUnreach),
    (110, Errno::TimedOut),
    (111, Errno::Refused),
    (11, Errno::Again),
    (104, Errno::Reset),
];

/// What stands before a number that is an error's, in lower case.
const BEFORE: &[&str] = &[
    "errno ",
    "errno: ",
    "errno:",
    "errno=",
    "errno = ",
    "[errno ",
    "os error ",
    "os error: ",
    "error code: ",
    "error code ",
    "error: ",
    "errorcode=",
    "exception (",
    "error(",
    "code: ",
    "code=",
    "err=",
    "err ",
    "errno(",
    "errno is ",
    "\"errno\":",
    "socketexception (",
    "system error ",
    "|",
];

/// What stands before a number with a minus sign, as the Linux kernel logs its errors: `libceph:
/// connect (1)10.0.0.2:6789 error -99`.
const BEFORE_MINUS: &[&str] = &["error ", "= ", "returned ", "code ", "rc="];

/// Words of calls: with one of them in the line, a number in parentheses is an error's.
const AROUND: &[&str] = &["connect", "bind", "listen", "socket", "dial"];

/// The error a line names; the line in lower case.
pub(super) fn errno(lower: &str) -> Option<Errno> {
    let numbered = NUMBERS.iter().find(|(n, _)| numbered(lower, *n)).map(|(_, errno)| *errno);
    // A line may name one error in words and, in the number, another one: the worse one counts.
    worded(lower).into_iter().chain(numbered).min()
}

/// The same by words, or by a number that is said to be an error's: other numbers may be anything
/// where a line has several parts.
pub(super) fn certain(lower: &str) -> Option<Errno> {
    let numbered = NUMBERS.iter().find(|(number, _)| {
        ["errno", "os error"].iter().any(|word| lower.contains(&format!("{word} {number}")))
    });
    worded(lower).into_iter().chain(numbered.map(|(_, errno)| *errno)).min()
}

fn worded(lower: &str) -> Option<Errno> {
    let said = WORDS.iter().find(|(word, _)| holds(lower, word)).map(|(_, errno)| *errno);
    let straight = lower.contains('\u{2019}').then(|| lower.replace('\u{2019}', "'"));
    let foreign = |text: &str| {
        CATALOG.iter().find_map(|(_, none, used)| {
            let none = text.contains(none).then_some(Errno::AddrNotAvail);
            none.or_else(|| text.contains(used).then_some(Errno::AddrInUse))
        })
    };
    let foreign = foreign(lower).or_else(|| foreign(straight.as_deref()?));
    said.into_iter().chain(foreign).min()
}

/// Whether the line has the word; a name such as `eperm` only as a word of its own.
fn holds(lower: &str, word: &str) -> bool {
    if word.contains(' ') {
        return lower.contains(word);
    }
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase());
    let short = word.len() <= 6;
    lower.match_indices(word).any(|(at, _)| {
        let before = lower.get(..at).and_then(|text| text.chars().next_back());
        let after = lower.get(at + word.len()..).and_then(|text| text.chars().next());
        !short || (!letter(before) && !letter(after))
    })
}

/// Whether the line has this number as an error's.
fn numbered(lower: &str, number: u32) -> bool {
    let text = number.to_string();
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    lower.match_indices(&text).any(|(at, _)| {
        let before = lower.get(..at).unwrap_or("");
        let after = lower.get(at + text.len()..).unwrap_or("");
        if digit(after.chars().next()) {
            return false;
        }
        let minus = before.strip_suffix('-');
        let named = minus.unwrap_or(before);
        if minus.is_some() && BEFORE_MINUS.iter().any(|word| named.ends_with(word)) {
            return true;
        }
        // `error: 99 requests` is a count.
        let counts = after.starts_with(' ') && after.trim_start().starts_with(char::is_alphabetic);
        if BEFORE.iter().any(|word| named.ends_with(word)) {
            return !counts;
        }
        let open = before.ends_with(['(', '[']) && after.starts_with([')', ']', ':', ',']);
        let apart = before.get(..before.len().saturating_sub(1)).is_some_and(|text| {
            text.is_empty() || text.ends_with([' ', '\'', '"', ')', ']', ':', ',', '\t'])
        });
        open && apart
            && (after.starts_with(':')
                || AROUND.iter().any(|word| lower.contains(word))
                || calls_elsewhere(before))
    })
}

/// `host:port (99)`: what stands before the number ends in a port.
fn calls_elsewhere(before: &str) -> bool {
    let rest =
        before.trim_end_matches(['(', '[']).trim_end().trim_end_matches(['\'', '"', ':', ')']);
    let digits = rest.chars().rev().take_while(char::is_ascii_digit).count();
    let head = rest.get(..rest.len() - digits).unwrap_or("");
    digits > 0 && (head.ends_with(':') || head.ends_with("port ") || head.ends_with('.'))
}
