//! Questions of callers on the follow stream: answered on their stream, or not at all.

use std::time::Instant;

use keepgate_client::replica::{
    ANSWER_WITHIN, MAX_ADDRESS, MAX_QUESTION, MAX_QUESTIONS, Replica, Unanswered,
};
use keepgate_policy::proto::caller_answer::Answer;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{self, CallerAnswer, CallerQuestion};
use prost::Message as _;

use crate::center::FakeCenter;
use crate::replica::{config, following, run, until};

fn ask(who: &str) -> Question {
    let what_for = "tests".to_owned();
    Question::AskAccess(proto::AskAccess { who: who.to_owned(), what_for, per_day: 10 })
}

fn fetch(code: &str) -> Question {
    Question::FetchKey(proto::FetchKey { code: code.to_owned() })
}

/// Answers with the name of who asked.
fn by_name(question: &CallerQuestion) -> Vec<CallerAnswer> {
    let name = match &question.question {
        Some(Question::AskAccess(asked)) => asked.who.clone(),
        Some(Question::FetchKey(fetched)) => fetched.code.clone(),
        None => String::new(),
    };
    let answer = Some(Answer::Asked(proto::AccessAsked { code: name }));
    vec![CallerAnswer { id: question.id, answer }]
}

async fn followed(center: &FakeCenter) -> Replica {
    let mut config = config(center);
    config.silence = ANSWER_WITHIN * 4;
    following(center, config).await
}

fn code(answer: Result<Answer, Unanswered>) -> String {
    match answer {
        Ok(Answer::Asked(asked)) => asked.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_question_gets_its_own_answer() {
    run(async {
        let center = FakeCenter::with_orders();
        // Foreign, repeated and unknown numbers do not disturb.
        center.set_answering(|question| {
            let mut answers = by_name(question);
            let stray = |id| CallerAnswer { id, ..answers[0].clone() };
            let strays = [stray(0), stray(question.id + 1_000), stray(question.id)];
            answers.extend(strays);
            answers
        });
        let replica = followed(&center).await;
        let names: Vec<String> = (0..MAX_QUESTIONS).map(|n| format!("asker {n}")).collect();
        let asked = names.iter().map(|name| replica.ask_center("orders", "192.0.2.1", ask(name)));
        let answers = futures_util::future::join_all(asked).await;
        assert_eq!(answers.into_iter().map(code).collect::<Vec<_>>(), names);
        let questions = center.questions();
        let ids: Vec<u64> = questions.iter().map(|question| question.id).collect();
        assert_eq!(ids, (1..=MAX_QUESTIONS as u64).collect::<Vec<_>>());
        assert!(questions.iter().all(|q| q.service == "orders" && q.address == "192.0.2.1"));
        assert_eq!(code(replica.ask_center("orders", "", fetch("c")).await), "c");
    });
}

#[test]
fn a_refusal_is_an_answer_and_one_that_is_not_known_is_none() {
    run(async {
        let center = FakeCenter::with_orders();
        let replica = followed(&center).await;
        center.set_answering(|question| {
            let refused = proto::CallerRefused { reason: "full".to_owned(), retry_after_s: 7 };
            vec![CallerAnswer { id: question.id, answer: Some(Answer::Refused(refused)) }]
        });
        let answer = replica.ask_center("orders", "", ask("a")).await;
        assert!(matches!(answer, Ok(Answer::Refused(r)) if r.reason == "full"));
        center.set_answering(|question| vec![CallerAnswer { id: question.id, answer: None }]);
        let answer = replica.ask_center("orders", "", ask("a")).await;
        assert_eq!(answer, Err(Unanswered::Unknown));
    });
}

#[test]
fn a_center_that_knows_no_questions_leaves_them_unanswered() {
    run(async {
        let center = FakeCenter::with_orders();
        let replica = followed(&center).await;
        let began = Instant::now();
        let ask = |name| replica.ask_center("orders", "", ask(name));
        let all = (0..MAX_QUESTIONS).map(|_| ask("a"));
        // One more than there may be hears that at once, and takes nobody's place.
        let (late, more) = tokio::join!(futures_util::future::join_all(all), async {
            tokio::task::yield_now().await;
            ask("b").await
        });
        assert_eq!(more, Err(Unanswered::Full));
        assert!(late.iter().all(|one| *one == Err(Unanswered::Late)), "{late:?}");
        assert!(began.elapsed() >= ANSWER_WITHIN);
        // The places are free again, and what was given up disturbs nobody.
        center.set_answering(by_name);
        assert_eq!(code(ask("c").await), "c");
    });
}

#[test]
fn without_a_stream_nothing_is_told() {
    run(async {
        let center = FakeCenter::with_orders();
        let replica = followed(&center).await;
        let asked = replica.ask_center("orders", "", ask("a"));
        let lost = async {
            until("asked", || !center.questions().is_empty()).await;
            center.set_down(true);
        };
        let (answer, ()) = tokio::join!(asked, lost);
        assert_eq!(answer, Err(Unanswered::Lost));
        until("away", || !replica.is_connected()).await;
        assert_eq!(replica.ask_center("orders", "", ask("b")).await, Err(Unanswered::NoCenter));
        // It is never asked again, and the next stream counts anew.
        center.set_answering(by_name);
        center.set_down(false);
        until("back", || replica.is_connected()).await;
        assert_eq!(code(replica.ask_center("orders", "", ask("c")).await), "c");
        let questions = center.questions();
        let ids: Vec<u64> = questions.iter().map(|question| question.id).collect();
        assert_eq!(ids, [1, 1]);
    });
}

#[test]
fn a_question_has_a_bound() {
    run(async {
        let center = FakeCenter::with_orders();
        center.set_answering(by_name);
        let replica = followed(&center).await;
        let size = |name: &str| {
            let (service, address) = ("orders".to_owned(), String::new());
            let question = Some(ask(name));
            CallerQuestion { id: u64::MAX, service, address, question }.encoded_len()
        };
        let mut name = "a".repeat(MAX_QUESTION / 2);
        while size(&name) < MAX_QUESTION {
            name.push('a');
        }
        assert_eq!(size(&name), MAX_QUESTION);
        assert_eq!(code(replica.ask_center("orders", "", ask(&name)).await), name);
        name.push('a');
        let answer = replica.ask_center("orders", "", ask(&name)).await;
        assert_eq!(answer, Err(Unanswered::TooLarge));
        let address = "1".repeat(MAX_ADDRESS);
        assert_eq!(code(replica.ask_center("orders", &address, ask("a")).await), "a");
        let answer = replica.ask_center("orders", &(address + "1"), ask("a")).await;
        assert_eq!(answer, Err(Unanswered::TooLarge));
    });
}
