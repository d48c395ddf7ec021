//! Untrusted forms: within the bounds they are read, beyond them they are not.

use keepgate_page::{
    Ask, AskForm, MAX_FORM, MAX_PER_DAY, MAX_SENT, MAX_WHAT_FOR, MAX_WHO, Notice, field, fields,
    is_own,
};
use proptest::prelude::*;

fn ask(who: &str, what_for: &str, per_day: &str) -> Result<Ask, AskForm> {
    let fields = [("who", who), ("what_for", what_for), ("per_day", per_day)];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    AskForm::read(&fields)
}

#[test]
fn a_request_is_taken_at_each_bound_and_not_beyond() {
    let who = "w".repeat(MAX_WHO);
    let what_for = "f".repeat(MAX_WHAT_FOR);
    let most = MAX_PER_DAY.to_string();
    assert_eq!(ask(&who, &what_for, &most).unwrap().per_day, MAX_PER_DAY);
    assert_eq!(ask("a", "b", "1").unwrap().per_day, 1);
    assert_eq!(ask(" a ", "b\r\nc", "1,200 000").unwrap().what_for, "b\nc");
    for (who, what_for, per_day, wrong) in [
        (&*(who.clone() + "w"), "b", "1", [true, false, false]),
        ("", "b", "1", [true, false, false]),
        ("a\nb", "b", "1", [true, false, false]),
        ("a", &*(what_for + "f"), "1", [false, true, false]),
        ("a", "", "1", [false, true, false]),
        ("a", "\u{1b}[31m", "1", [false, true, false]),
        ("a", "b", "0", [false, false, true]),
        ("a", "b", &(MAX_PER_DAY + 1).to_string(), [false, false, true]),
        ("a", "b", "-1", [false, false, true]),
        ("a", "b", "1.5", [false, false, true]),
        ("a", "b", "99999999999999999999999", [false, false, true]),
        ("", "", "", [true, true, true]),
    ] {
        let form = ask(who, what_for, per_day).unwrap_err();
        let found = [form.wrong_who, form.wrong_what_for, form.wrong_per_day];
        assert_eq!(found, wrong, "{who:?} {what_for:?} {per_day:?}");
    }
}

#[test]
fn a_form_has_bounds() {
    let sized = |bytes: usize| format!("a={}", "x".repeat(bytes - 1));
    assert!(fields(sized(MAX_FORM).as_bytes()).is_some());
    assert!(fields(sized(MAX_FORM + 1).as_bytes()).is_none());
    // Each byte as three.
    let written = format!("a={}", "%41".repeat(MAX_FORM - 1));
    assert!(written.len() <= MAX_SENT);
    assert!(fields(written.as_bytes()).is_some());
    assert!(fields("a=1&".repeat(16).as_bytes()).is_some());
    assert!(fields("a=1&".repeat(17).as_bytes()).is_none());
    assert!(fields(b"a=%ff").is_none());
    assert!(fields(&vec![b'&'; MAX_SENT]).is_some());
    assert!(fields(&vec![b'&'; MAX_SENT + 1]).is_none());
}

proptest! {
    #[test]
    fn what_a_browser_sends_is_read(who in "\\PC{0,40}", code in "[a-z0-9]{0,64}") {
        // The replacement character means that something was not UTF-8.
        prop_assume!(!who.contains('\u{fffd}'));
        let encode = |text: &str| -> String {
            text.bytes().map(|byte| format!("%{byte:02X}")).collect()
        };
        let sent = format!("who={}&code={}", encode(&who), encode(&code));
        let read = fields(sent.as_bytes()).unwrap();
        prop_assert_eq!(field(&read, "who"), who.trim());
        prop_assert_eq!(field(&read, "code"), code);
    }

    #[test]
    fn nothing_that_is_sent_is_beyond_the_bounds(sent in proptest::collection::vec(any::<u8>(), 0..4000)) {
        if let Some(read) = fields(&sent) {
            let bytes: usize = read.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(bytes <= MAX_FORM);
            if let Ok(ask) = AskForm::read(&read) {
                prop_assert!(ask.who.len() <= MAX_WHO && ask.what_for.len() <= MAX_WHAT_FOR);
            }
        }
    }
}

#[test]
fn a_form_comes_from_its_own_page() {
    for (site, origin, is_taken) in [
        (None, None, true),
        (Some("same-origin"), Some("null"), true),
        (Some("none"), None, true),
        (Some("same-site"), Some("https://a.example"), false),
        (Some("cross-site"), None, false),
        (Some(""), None, false),
        (None, Some("https://a.example"), true),
        (None, Some("http://A.example:8080"), true),
        (None, Some("https://b.example"), false),
        (None, Some("https://a.example.b"), false),
        (None, Some("null"), false),
        (None, Some(""), false),
    ] {
        let said = is_own(site.map(str::as_bytes), origin.map(str::as_bytes), "a.example");
        assert_eq!(said, is_taken, "{site:?} {origin:?}");
    }
    assert!(!is_own(None, Some(b"https://\xff"), "a.example"));
}

/// Each reason of the protocol has an answer of its own; what is not known is "cannot tell", never "declined".
#[test]
fn every_refusal_of_the_center_is_told_apart() {
    let mut seen = Vec::new();
    for reason in ["too-many", "full", "invalid", "unknown", "pending", "declined", "unavailable"] {
        let (status, notice, wait) = Notice::of_refusal(reason, 7);
        assert!(!seen.contains(&notice), "{reason}");
        assert_eq!(wait.is_some(), matches!(status, 202 | 429 | 503), "{reason}");
        seen.push(notice);
    }
    for other in ["", "DECLINED", "x"] {
        assert_eq!(Notice::of_refusal(other, 0), (503, Notice::Unavailable, Some(5)));
    }
}
