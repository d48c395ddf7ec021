//! Sums, tables and thresholds over a made-up report whose right answers can be seen.

use expect_test::expect;
use keepgate_lab::actor::second::Second;
use keepgate_lab::report::{ArmReport, Moment, html, table};
use keepgate_lab::{Arm, LabPlan, LabReport, assertion};

/// Two arms of four seconds, the crawler from the second second on.
fn report() -> LabReport {
    let plan =
        LabPlan { duration_s: 4.0, crawler_from_s: 2.0, forecast_at_s: 2, ..LabPlan::fast() };
    let mut report = LabReport::new(plan.clone());
    report.kernel = "6.18".to_owned();
    for (arm, wrong) in [(Arm::Naive, 30), (Arm::Keepgate, 0)] {
        let mut played = ArmReport::new(arm);
        for t in 0..4 {
            let bad = if t >= 2 { wrong } else { 0 };
            let doctor = serde_json::json!({
                "verdict": if bad > 0 { "exhausted" } else { "healthy" },
                "sockets": {"time_wait": t * 10},
                "buckets": [{"usable": 100, "remaining": {"min": if bad > 0 { 0 } else { 100 - t }, "max": 100},
                             "exhausted_in_s": 3.5}],
            });
            let mut moment = Moment::new(t, &doctor);
            moment.opened = if wrong > 0 { 50 } else { u64::from(t == 0) };
            moment.join(
                "users",
                &second(&[
                    ("sent", 50),
                    ("ok", 47 - bad),
                    ("wrong_forbidden", bad),
                    ("forbidden", 3),
                ]),
            );
            moment.join("crawler", &second(&[("sent", 50), ("ok", 10), ("limited", 40)]));
            moment.join("subsystem", &second(&[("eaddrnotavail", bad)]));
            played.seconds.push(moment);
        }
        played.conclude(&plan);
        report.arms.push(played);
    }
    report
}

fn second(counts: &[(&str, u64)]) -> Second {
    Second {
        counts: counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
        p50_us: 900,
        p99_us: 2_100,
        ..Second::default()
    }
}

#[test]
fn sums() {
    let report = report();
    let naive = &report.arm(Arm::Naive).unwrap().summary;
    assert_eq!(naive.wrong_403, 60);
    assert!((naive.users_ok - 140.0 / 200.0).abs() < 1e-9);
    assert!((naive.users_ok_under_crawl - 40.0 / 100.0).abs() < 1e-9);
    assert_eq!(naive.exhausted_at_s, Some(2));
    let gate = &report.arm(Arm::Keepgate).unwrap().summary;
    assert!((gate.reuse_ratio - (1.0 - 1.0 / 400.0)).abs() < 1e-9);
    assert_eq!(gate.exhausted_at_s, None);
}

#[test]
fn table_lines_up() {
    expect![[r#"
        arm       users ok  wrong 403  EADDRNOTAVAIL  opened  TIME_WAIT max  users p99  crawler ok  ports out at  doctor said
        naive       40.0 %         60             60     200             30     2.1 ms      20.0 %           2 s          6 s
        keepgate   100.0 %          0              0       1             30     2.1 ms      20.0 %         never          6 s
    "#]]
    .assert_eq(&table::render(&report()));
}

#[test]
fn thresholds() {
    let text = "wrong_403 = 0\n# a comment\nreuse_ratio >= 0.999\nnaive.wrong_403 > 0 # as it was\n\
                exhausted_at_s < 5\n";
    let outcomes = assertion::check(&assertion::parse(text).unwrap(), &report());
    let lines: String = outcomes.iter().map(|outcome| format!("{outcome}\n")).collect();
    expect![[r#"
        ok   keepgate.wrong_403 = 0: 0
        FAIL keepgate.reuse_ratio >= 0.999: 0.9975
        ok   naive.wrong_403 > 0: 60
        FAIL keepgate.exhausted_at_s < 5: no figure
    "#]]
    .assert_eq(&lines);
}

#[test]
fn thresholds_that_are_none() {
    for text in
        ["wrong_403 ~ 0", "nothing = 1", "naive.wrong_403 = many", "mars.wrong_403 = 0", "a b"]
    {
        assert!(assertion::parse(text).is_err(), "`{text}` was taken");
    }
}

#[test]
fn page_stands_alone() {
    let page = html::render(&report());
    for reference in ["http://", "https://", "src=", "<script", "@import", "url("] {
        assert!(!page.contains(reference), "the page refers to something: {reference}");
    }
    assert_eq!(page.matches("<section").count(), 2);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.contains("prefers-color-scheme: dark"));
    // The table of all arms comes first; doctor's forecast stands beside what happened.
    assert!(page.find("<table>").unwrap() < page.find("<section").unwrap());
    assert_eq!(page.matches("<tr>").count(), 3);
    assert!(
        page.contains("<td>40.0 %</td>")
            && page.contains("forecast at second 2; ports were out: 2 s")
    );
    assert!(page.contains("forecast at second 2; ports were out: never"));
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn report_reads_back() {
    let report = report();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<LabReport>(&text).unwrap(), report);
}
