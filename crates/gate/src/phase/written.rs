//! The record of a request: what is known at the stage at which it ended.

use std::fmt::Display;
use std::net::IpAddr;

use http::header::REFERER;
use http::{HeaderValue, Version};
use keepgate_policy::{PolicyName, Uid};
use keepgate_record::{Draft, Ended, Inputs, Outcome};

use super::stage::{Carrier, Facts, Found};
use crate::message::recording::Recording;
use crate::observe::records::Recorder;
use crate::service::table::Table;

/// Begins the record of a request; none: there is no log, or the request is left out of it.
pub(super) fn begin(
    facts: &Facts<'_>,
    (outcome, reason): (Outcome, &str),
    status: u16,
) -> Option<Box<Recording>> {
    let arrived = facts.arrived;
    let recorder = arrived.worker.recorder.as_ref()?;
    let (parts, found, via) = (&arrived.parts, facts.found, facts.via);
    let (method, route) =
        (parts.method.as_str(), found.and_then(Found::template).unwrap_or_default());
    if outcome == Outcome::Allowed && !recorder.takes(method, route) {
        recorder.queue.leave_out();
        return None;
    }
    let text =
        |value: Option<&'_ HeaderValue>| value.and_then(|v| v.to_str().ok()).map(str::to_owned);
    let trace = arrived.trace.id().map(|id| id.to_string());
    let referer = match via {
        Some(via) => via.referer.as_ref(),
        None => parts.headers.get(REFERER),
    };
    let (referer, user_agent) = match recorder.records.shape.format {
        keepgate_record::Format::Combined => (text(referer), text(facts.user_agent)),
        _ => (None, None),
    };
    let site = facts.site.and_then(|site| {
        let live = arrived.worker.common.live.load();
        let site = live.sites.get(site).filter(|_| live.sites.len() > 1)?;
        let host = site.config.hosts.first().cloned().map(String::from).unwrap_or_default();
        Some(format!("{host}{}", site.config.path))
    });
    let shown = |uid| uid as &dyn Display;
    let policies: Vec<&dyn Display> =
        facts.evidence.iter().flat_map(|evidence| &evidence.policies).map(|p| p as _).collect();
    let inputs = facts.evidence.map(|evidence| match &evidence.inputs {
        Some(members) => Inputs::Members(members),
        None => Inputs::TooLarge,
    });
    let age_ms = found.and_then(|found| found.table.age()).map(|age| age.as_millis());
    let answered = via.and_then(|via| via.answered.as_ref());
    let draft = Draft {
        unix_ms: keepgate_observe::unix_ms(),
        request_id: arrived.request_id.to_str().unwrap_or_default(),
        trace_id: trace.as_deref().unwrap_or_default(),
        gate: &recorder.records.gate,
        site: site.as_deref().unwrap_or_default(),
        service: facts.served.map(|served| served.tables.service.as_str()).unwrap_or_default(),
        principal: facts.identity.map(|identity| shown(&*identity.principal)),
        identified_by: facts.identity.map(|identity| identity.by.name()).unwrap_or_default(),
        address: facts.client,
        method,
        host: facts.host,
        route,
        path: via.map_or(parts.uri.path(), |via| &via.path),
        query: parts.uri.query(),
        action: found.map(|found| shown(&found.action)),
        resource: found.map(|found| shown(&found.resource)),
        outcome,
        reason,
        status,
        policies: &policies,
        revision: found.map(|found| found.table.version.0.0),
        age_ms: age_ms.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
        decide_ns: facts.evidence.map(|evidence| evidence.decide_ns),
        upstream_us: via.map(|via| via.upstream_us),
        upstream_address: answered.map(|(address, _)| address.as_str()).unwrap_or_default(),
        reused: answered.map(|(_, reused)| *reused),
        inputs: inputs.as_ref(),
        referer: referer.as_deref().unwrap_or_default(),
        user_agent: user_agent.as_deref().unwrap_or_default(),
        version: match (arrived.carrier, parts.version) {
            (Carrier::Gate, Version::HTTP_2) => "HTTP/2.0",
            (Carrier::Gate, Version::HTTP_10) => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
    };
    let line = draft.begin(&recorder.records.shape);
    let body = via.and_then(|via| via.body.clone());
    let queue = std::sync::Arc::clone(&recorder.queue);
    Some(Box::new(Recording::new(line, queue, arrived.started, body)))
}

/// What a question says to its record that is not decided by the phases: one of AuthZEN, one about limits,
/// or one that describes no request.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) address: Option<IpAddr>,
    pub(crate) method: &'a str,
    pub(crate) route: &'a str,
    pub(crate) path: &'a str,
}

/// What was decided of a question.
#[derive(Default)]
pub(crate) struct Determined<'a> {
    pub(crate) service: &'a str,
    pub(crate) principal: Option<&'a Uid>,
    pub(crate) identified_by: &'a str,
    /// Action and resource.
    pub(crate) about: Option<[&'a Uid; 2]>,
    pub(crate) policies: &'a [PolicyName],
    pub(crate) table: Option<&'a Table>,
    pub(crate) decide_ns: Option<u64>,
    pub(crate) inputs: Option<Inputs<'a>>,
}

/// Writes the record of a question that was answered.
pub(crate) fn question(
    recorder: &Recorder,
    asked: &Asked<'_>,
    (outcome, reason, status): (Outcome, &str, u16),
    determined: &Determined<'_>,
) {
    if outcome == Outcome::Allowed && !recorder.takes(asked.method, asked.route) {
        return recorder.queue.leave_out();
    }
    let policies: Vec<&dyn Display> = determined.policies.iter().map(|p| p as _).collect();
    let shown = |uid| uid as &dyn Display;
    let [action, resource] = match determined.about {
        Some(about) => about.map(|uid| Some(shown(uid))),
        None => [None; 2],
    };
    let table = determined.table;
    let age_ms = table.and_then(Table::age).map(|age| age.as_millis());
    let draft = Draft {
        unix_ms: keepgate_observe::unix_ms(),
        request_id: asked.request_id,
        trace_id: "",
        gate: &recorder.records.gate,
        site: "",
        service: determined.service,
        principal: determined.principal.map(shown),
        identified_by: determined.identified_by,
        address: asked.address,
        method: asked.method,
        host: "",
        route: asked.route,
        path: asked.path,
        query: None,
        action,
        resource,
        outcome,
        reason,
        status,
        policies: &policies,
        revision: table.map(|table| table.version.0.0),
        age_ms: age_ms.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
        decide_ns: determined.decide_ns,
        upstream_us: None,
        upstream_address: "",
        reused: None,
        inputs: determined.inputs.as_ref(),
        referer: "",
        user_agent: "",
        version: "HTTP/1.1",
    };
    let total_us = determined.decide_ns.unwrap_or(0) / 1_000;
    let ended = Ended { total_us, ..Ended::default() };
    recorder.queue.offer(&draft.begin(&recorder.records.shape), &ended);
}
