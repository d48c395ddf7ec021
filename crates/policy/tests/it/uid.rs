//! `Uid` against Cedar's own identifiers.

use std::str::FromStr as _;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use cedar_policy_core::ast::EntityUID;
use keepgate_policy::Uid;
use keepgate_policy::uid::is_type_name;
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        "[a-zA-Z_][a-zA-Z0-9_]{0,6}",
        prop::sample::select(vec![
            "if",
            "in",
            "is",
            "like",
            "has",
            "true",
            "false",
            "then",
            "else",
            "__cedar",
            "principal",
            "action",
            "resource",
            "context",
            "permit",
            "forbid",
            "when",
            "unless",
            "template",
            "namespace",
            "entity",
            "_",
            "__",
            "ipaddr",
            "decimal",
            "Action",
        ])
        .prop_map(str::to_owned),
        "[ a-z0-9.:-]{0,5}",
    ];
    prop::collection::vec(segment, 1..4).prop_map(|segments| segments.join("::"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn type_names_are_cedars(kind in kind()) {
        // Cedar allows spaces around `::`; ours are normal forms only.
        let cedar = EntityTypeName::from_str(&kind).is_ok_and(|name| name.to_string() == kind);
        prop_assert_eq!(is_type_name(&kind), cedar, "{}", kind);
    }

    #[test]
    fn text_is_cedars_and_reads_back(id in any::<String>()) {
        let ours = Uid::new("shop::order", &id);
        let cedar = EntityUid::from_type_name_and_id(
            EntityTypeName::from_str("shop::order").unwrap(),
            EntityId::new(&id),
        );
        prop_assert_eq!(ours.to_string(), cedar.to_string());
        prop_assert_eq!(Uid::from_str(&ours.to_string()), Ok(ours));
    }

    #[test]
    fn what_cedar_reads_we_read(text in "[a-z:\" \\\\\\r\\n0u{}*']{0,12}") {
        let text = format!("user::\"{text}\"");
        let cedar = EntityUID::from_str(&text)
            .map(|uid| Uid::new(uid.entity_type().to_string(), uid.eid().as_ref() as &str));
        prop_assert_eq!(Uid::from_str(&text).ok(), cedar.ok(), "{}", text);
    }

    #[test]
    fn short_texts_read_back(kind in prop_oneof![Just("Action"), Just("role"), Just("user")], id in "[a-z:\"]{0,12}") {
        let uid = Uid::new(kind, id);
        prop_assert_eq!(Uid::action(&uid.to_action_text()), uid.clone());
        prop_assert_eq!(Uid::role(&uid.to_role_text()), uid);
    }
}

#[test]
fn what_is_no_identifier_is_named() {
    let error = "alice".parse::<Uid>().unwrap_err().to_string();
    assert_eq!(error, "`alice` is not a Cedar identifier; write it as `kind::\"id\"`");
    assert_eq!(Uid::action("read"), Uid::new("Action", "read"));
    assert_eq!(Uid::action("shop::Action::\"read\""), Uid::new("shop::Action", "read"));
}
