//! What a gate says of itself and its host, as far as it makes sense: a gate that lies is wrong about itself.

use keepgate_policy::proto;
use serde::{Deserialize, Serialize};

/// The longest address, in bytes.
const ADDRESS: usize = 64;
/// The longest sentence of the doctor, in bytes.
const HEADLINE: usize = 300;
/// Ports that there are.
const PORTS: u32 = 65_536;
/// The doctor's verdicts.
const VERDICTS: [&str; 5] = ["exhausted", "at_risk", "healthy", "not_ports", "unknown"];

/// A report that was taken, as centers tell each other too. What is absent is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// Connections of callers that are open.
    pub caller_connections: Option<u64>,
    /// Connections to upstreams that are open.
    pub upstream_connections: Option<u64>,
    /// Requests put on a connection to an upstream in the last minute.
    pub requests: Option<u64>,
    /// Of these, on one that had carried a request before.
    pub reused: Option<u64>,
    /// Where the smallest part of the ports is free.
    pub tightest: Option<PortsLeft>,
    /// What the doctor says of its host: one of the verdicts of `keepgate doctor --json`.
    pub verdict: Option<String>,
    /// The same in one sentence.
    pub headline: String,
}

/// Ports from one source address toward one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsLeft {
    /// The source address.
    pub source: String,
    /// An address with its port.
    pub destination: String,
    /// How many ports there are.
    pub usable: u32,
    /// How many of them are free.
    pub free: u32,
}

/// Why a report is dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("expected {what} of at most {most} bytes without control characters")]
    Text { what: &'static str, most: usize },
    #[error("the ports of the report contradict each other")]
    Ports,
}

fn text(text: &str, what: &'static str, most: usize) -> Result<String, Wrong> {
    let is_good = text.len() <= most && !text.chars().any(char::is_control);
    if is_good { Ok(text.to_owned()) } else { Err(Wrong::Text { what, most }) }
}

impl GateReport {
    /// Takes one that a follower sent. A verdict that is not known here is left out: a later gate may have
    /// others.
    pub(crate) fn read(said: proto::GateReport) -> Result<GateReport, Wrong> {
        let tightest = said.tightest.map(|left| {
            if left.usable > PORTS || left.free > left.usable {
                return Err(Wrong::Ports);
            }
            Ok(PortsLeft {
                source: text(&left.source, "an address", ADDRESS)?,
                destination: text(&left.destination, "an address", ADDRESS)?,
                usable: left.usable,
                free: left.free,
            })
        });
        // Of more than there were, nothing is known.
        let carried = said.requests.zip(said.reused).filter(|(all, reused)| reused <= all).unzip();
        let verdict = said.verdict.filter(|said| VERDICTS.contains(&said.as_str()));
        let headline = text(&said.headline.unwrap_or_default(), "a headline", HEADLINE)?;
        Ok(GateReport {
            caller_connections: said.caller_connections,
            upstream_connections: said.upstream_connections,
            requests: carried.0,
            reused: carried.1,
            tightest: tightest.transpose()?,
            headline: if verdict.is_some() { headline } else { String::new() },
            verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> proto::GateReport {
        proto::GateReport {
            caller_connections: Some(1),
            upstream_connections: Some(u64::MAX),
            requests: Some(10),
            reused: Some(10),
            tightest: Some(proto::PortsLeft {
                source: "192.0.2.1".to_owned(),
                destination: "d".repeat(ADDRESS),
                usable: PORTS,
                free: PORTS,
            }),
            verdict: Some("at_risk".to_owned()),
            headline: Some("h".repeat(HEADLINE)),
        }
    }

    #[test]
    fn a_report_is_taken_up_to_its_bounds_and_not_beyond() {
        let taken = GateReport::read(said()).unwrap();
        assert_eq!((taken.verdict.as_deref(), taken.headline.len()), (Some("at_risk"), HEADLINE));
        let nothing = GateReport::read(proto::GateReport::default()).unwrap();
        assert_eq!((nothing.requests, nothing.tightest, nothing.verdict), (None, None, None));
        let unheard = proto::GateReport { verdict: Some("splendid".to_owned()), ..said() };
        let unheard = GateReport::read(unheard).unwrap();
        assert_eq!((unheard.verdict, unheard.headline.as_str()), (None, ""));
        let ports = |change: &dyn Fn(&mut proto::PortsLeft)| {
            let mut said = said();
            change(said.tightest.as_mut().unwrap());
            GateReport::read(said).unwrap_err()
        };
        assert_eq!(ports(&|left| left.usable += 1), Wrong::Ports);
        assert_eq!(ports(&|left| left.usable -= 1), Wrong::Ports);
        assert!(matches!(ports(&|left| left.destination.push('d')), Wrong::Text { .. }));
        assert!(matches!(ports(&|left| left.source.push('\n')), Wrong::Text { .. }));
        for headline in ["h".repeat(HEADLINE + 1), "a\u{1b}[2J".to_owned()] {
            let wrong = proto::GateReport { headline: Some(headline), ..said() };
            assert!(matches!(GateReport::read(wrong), Err(Wrong::Text { .. })));
        }
        let more = GateReport::read(proto::GateReport { reused: Some(11), ..said() }).unwrap();
        assert_eq!((more.requests, more.reused, more.caller_connections), (None, None, Some(1)));
    }
}
