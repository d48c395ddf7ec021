//! Records as they are written.

use expect_test::{Expect, expect};
use keepgate_record::{
    Draft, Entry, Format, HashKey, Inputs, MAX_INPUTS, MAX_TEXT, Member, Members, Record, Shape,
};
use proptest::prelude::*;

use super::{ENDED, draft};

fn written(draft: &Draft<'_>, shape: &Shape) -> String {
    let mut out = Vec::new();
    draft.begin(shape).finish(&ENDED, &mut out);
    String::from_utf8(out).unwrap()
}

fn check(draft: &Draft<'_>, shape: &Shape, expected: Expect) {
    expected.assert_eq(&written(draft, shape));
}

#[test]
fn formats() {
    let shape = |format| Shape { format, ..Shape::default() };
    check(
        &draft("r1"),
        &shape(Format::Json),
        expect![[r#"
        {"time":"2026-11-27T05:30:00.123Z","request_id":"r1","gate":"gate-1","service":"orders","principal":"user::\"alice\"","identified_by":"api_key","address":"127.0.0.1","method":"GET","host":"shop.example","route":"/orders/{id}","path":"/orders/7","action":"Action::\"GET\"","resource":"route::\"/orders/{id}\"","outcome":"allowed","status":200,"revision":7,"age_ms":12,"decide_ns":800,"upstream_us":1000,"upstream_address":"127.0.0.1:3000","reused":true,"bytes_in":1,"bytes_out":2,"total_us":3}
    "#]],
    );
    check(
        &draft("r1"),
        &shape(Format::Common),
        expect![[r#"
        127.0.0.1 - user::\"alice\" [27/Nov/2026:05:30:00 +0000] "GET /orders/7 HTTP/1.1" 200 2
    "#]],
    );
    let mut said = draft("r1");
    (said.user_agent, said.path) = ("a \"b\"\n", "/a b");
    check(
        &said,
        &Shape { query: true, ..shape(Format::Combined) },
        expect![[r#"
        127.0.0.1 - user::\"alice\" [27/Nov/2026:05:30:00 +0000] "GET /a+b?a=1 HTTP/1.1" 200 2 "-" "a \"b\"\n"
    "#]],
    );
}

/// The contract's members, and no others.
#[test]
fn members() {
    let contract = "time request_id trace_id gate site service principal identified_by address \
                    method host route path action resource outcome reason status policies revision \
                    age_ms bytes_in bytes_out total_us decide_ns upstream_us upstream_address reused \
                    inputs";
    let mut contract: Vec<_> = contract.split_whitespace().collect();
    let mut names: Vec<_> = Member::ALL.iter().map(|member| member.name()).collect();
    contract.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, contract);
}

#[test]
fn members_are_left_out_and_hashed() {
    let shape = Shape {
        left_out: [Member::Address, Member::TotalUs, Member::UpstreamAddress].into_iter().collect(),
        hashed: [Member::Principal, Member::Path].into_iter().collect(),
        key: HashKey::new(&[7; 16]),
        ..Shape::default()
    };
    let mut said = draft("r1");
    said.inputs = Some(&Inputs::Members("\"context\":{}"));
    let line = written(&said, &shape);
    let Entry::Record(record) = Entry::of(line.trim_end().as_bytes()) else { panic!("{line}") };
    assert_eq!((record.address.as_str(), record.total_us, record.bytes_out), ("", None, Some(2)));
    assert!(record.principal.starts_with("hmac:") && record.principal.len() == 37, "{line}");
    assert_ne!(record.principal, record.path);
    // The same name has the same hash under the same key, and another under another.
    assert_eq!(line, written(&said, &shape));
    let other = Shape { key: HashKey::new(&[8; 16]), ..shape.clone() };
    assert_ne!(line, written(&said, &other));
    assert_eq!(record.inputs.unwrap().to_string(), "{\"not_replayable\":\"redacted\"}");
    // Without a key nothing is hashed, and nothing shown.
    let keyless = Shape { key: None, ..shape };
    assert!(!written(&said, &keyless).contains("principal"), "{}", written(&said, &keyless));
    assert!(HashKey::new(&[0; 15]).is_none());
}

#[test]
fn inputs_have_a_bound() {
    for (bytes, fits) in [(MAX_INPUTS - 2, true), (MAX_INPUTS - 1, false)] {
        let text = format!("\"context\":\"{}\"", "x".repeat(bytes - 12));
        let inputs = Inputs::Members(&text);
        assert_eq!(text.len(), bytes);
        let mut said = draft("r1");
        said.inputs = Some(&inputs);
        let line = written(&said, &Shape::default());
        assert_eq!(line.contains("not_replayable"), !fits);
    }
}

#[test]
fn texts_have_a_bound() {
    let (at, beyond) = ("é".repeat(MAX_TEXT / 2), "é".repeat(MAX_TEXT / 2 + 1));
    let mut said = draft("r1");
    for (text, is_cut) in [(&at, false), (&beyond, true)] {
        said.principal = Some(text);
        said.host = text;
        let line = written(&said, &Shape::default());
        let Entry::Record(record) = Entry::of(line.trim_end().as_bytes()) else { panic!() };
        assert_eq!(record.principal.ends_with('…'), is_cut);
        assert!(record.host.len() <= MAX_TEXT);
    }
}

proptest! {
    /// Whatever texts there are: what is read is what was said.
    #[test]
    fn a_record_is_read_as_it_was_said(
        texts in prop::collection::vec("(?s).{1,40}", 6),
        status: u16,
        numbers in prop::collection::vec(any::<u64>(), 3),
        policies in prop::collection::vec(any::<String>(), 0..3),
    ) {
        let shown: Vec<&dyn std::fmt::Display> = policies.iter().map(|text| text as _).collect();
        let mut said = draft(&texts[0]);
        said.principal = Some(&texts[1]);
        said.action = Some(&texts[5]);
        (said.path, said.host) = (&texts[2], &texts[3]);
        (said.reason, said.status) = (&texts[4], status);
        (said.policies, said.revision, said.age_ms) = (&shown, Some(numbers[0]), Some(numbers[1]));
        let line = written(&said, &Shape::default());
        prop_assert_eq!(line.matches('\n').count(), 1);
        let Entry::Record(record) = Entry::of(line.trim_end_matches('\n').as_bytes()) else {
            panic!("{line}")
        };
        let read: Record = *record;
        prop_assert_eq!(&read.request_id, &texts[0]);
        prop_assert_eq!(&read.principal, &texts[1]);
        prop_assert_eq!((&read.path, &read.host), (&texts[2], &texts[3]));
        prop_assert_eq!((&read.reason, &read.action), (&texts[4], &texts[5]));
        prop_assert_eq!((read.status, &read.policies), (Some(status), &policies));
        prop_assert_eq!((read.revision, read.age_ms), (Some(numbers[0]), Some(numbers[1])));
        // An oracle: written by serde_json it has the same members.
        let ours: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(ours, serde_json::to_value(&read).unwrap());
    }

    /// What is left out is not there, whichever it is.
    #[test]
    fn what_is_left_out_is_not_there(bits in prop::collection::vec(any::<bool>(), Member::ALL.len())) {
        let left_out: Members = Member::ALL
            .iter()
            .zip(&bits)
            .filter(|(member, is_out)| **is_out && !member.is_needed())
            .map(|(member, _)| *member)
            .collect();
        let shape = Shape { left_out, ..Shape::default() };
        let line = written(&draft("r1"), &shape);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        for member in Member::ALL {
            if left_out.has(*member) {
                prop_assert!(read.get(member.name()).is_none(), "{}", member.name());
            }
        }
    }
}
