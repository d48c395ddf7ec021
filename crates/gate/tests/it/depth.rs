//! Deep policies on a gate's own workers: at the bound they are decided, beyond it nothing is.

use super::support::{Draft, Echo, TestGate, get};

const ALICE: (&str, &str) = ("x-user", "alice");

fn around(open: &str, inner: &str, close: &str, n: usize) -> String {
    format!("{}{inner}{}", open.repeat(n), close.repeat(n))
}

fn forbid(name: &str, condition: &str) -> (String, String) {
    let text = format!("forbid (principal, action, resource) when {{ {condition} }};");
    (name.to_owned(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_at_the_bound_is_decided_on_a_worker() {
    let echo = Echo::start().await;
    let n = keepgate_policy::MAX_DEPTH - 3;
    let mut draft = Draft::orders();
    draft.policies.extend([
        forbid("nots", &around("!(", "false", ")", n / 2 * 2)),
        forbid("records", &format!("{} == 1", around("{a: ", "1", "}", n))),
        forbid("lists", &format!("{} == 1", around("[", "1", "]", n))),
        forbid("ifs", &around("if true then ", "false", " else true", n)),
        forbid("calls", &around("[true].contains(", "false", ")", n)),
        forbid("and-or", &around("(true && (false || ", "false", "))", n / 2)),
        forbid("sums", &format!("1{} == 1", " + 1".repeat(n))),
        forbid("users", &vec!["principal == user::\"nobody\""; 10_000].join(" || ")),
    ]);
    let gate = TestGate::start(&draft, &echo.url).await;
    let answer = get(gate.addr, "/orders/7", &[ALICE]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    gate.stop().await;

    // They are evaluated, not skipped.
    draft.policies.push(forbid(
        "clauses",
        &vec!["false"; 500].join(" } unless { ").replacen("false", "true", 1),
    ));
    let gate = TestGate::start(&draft, &echo.url).await;
    get(gate.addr, "/orders/7", &[ALICE]).await.is_problem(403, "denied");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_beyond_the_bound_is_no_decision() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.policies.push(forbid("deep", &around("(", "false", ")", 10_000)));
    let gate = TestGate::start(&draft, &echo.url).await;
    let problem = get(gate.addr, "/orders/7", &[ALICE]).await.is_problem(503, "no-decision");
    assert_eq!(problem["reason"], "undecided");
    assert!(!problem.to_string().contains("deep"), "no policy in: {problem}");
    gate.stop().await;
}
