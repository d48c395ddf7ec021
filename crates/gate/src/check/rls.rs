//! Envoy's rate limit service over the limits of a service: descriptors in, verdicts out.
//!
//! A domain is a service's name; an empty one is the only service's. The entries of a descriptor say
//! who is counted:
//!
//! | key | is |
//! |---|---|
//! | `service` | the service, in place of the domain |
//! | `remote_address`, `address` | the caller's address |
//! | `principal` | who it is, in Cedar syntax: `user::"alice"` |
//! | `api_key` | its API key, as the caller shows it; one that does not hold counts as none |
//! | `method` | the method |
//! | `path` | the path, whose route is looked for |
//! | `route` | the route's template, in place of the path |
//! | `header:NAME`, any other | the request header of that name |
//!
//! The limits are those of requests through the gate, by address first and then by principal, in the
//! same buckets. A request is under way here only until the answer.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderValue;
use keepgate_limit::limiter::{Outcome, PolicyReport, Unit};
use keepgate_limit::{AddressKey, Caller, LimitVerdict, Limiter};
use keepgate_policy::Uid;
use keepgate_policy::model::KeyBody;
use keepgate_policy::router::Matched;
use keepgate_record::Outcome as Ended;

use super::grpc::{Code, Failure};
use crate::identify::key;
use crate::message::answer;
use crate::message::path;
use crate::message::problem::Kind;
use crate::observe::phase::Phase;
use crate::observe::records::Recorder;
use crate::phase::refusal;
use crate::phase::worker::{Served, Worker};
use crate::phase::written::{self, Determined};
use crate::proto::envoy::config::core::v3::HeaderValue as Field;
use crate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit as Per;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response::{
    Code as Said, DescriptorStatus, RateLimit,
};
use crate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::proto::google::protobuf::Duration;
use crate::service::table::{Service, Table};

/// Descriptors of one request.
pub(crate) const DESCRIPTORS: usize = 64;
/// Entries of one descriptor.
pub(crate) const ENTRIES: usize = 64;

/// What was said about one descriptor.
struct Asked<'t> {
    service: &'t Service,
    has_key: bool,
    principal: Option<&'t Uid>,
    /// The template of the route.
    route: Option<Cow<'t, str>>,
    /// By address, then by principal, if it came to that.
    said: Vec<LimitVerdict>,
}

/// Counts a request, says whether it may go on, and records what was said. The record is about the first
/// descriptor that is over a limit; where none is, about the first one.
pub(crate) fn answered(
    worker: &Worker,
    request: &RateLimitRequest,
    id: &HeaderValue,
) -> Result<(RateLimitResponse, bool), Failure> {
    let answered = counted(worker, request, id);
    if let (Err(failure), Some(recorder)) = (&answered, &worker.recorder) {
        let kind = match failure.code() {
            Code::Unavailable => Kind::NoDecision,
            _ => Kind::BadRequest,
        };
        let asked =
            written::Asked { request_id: id.to_str().unwrap_or_default(), ..Default::default() };
        let said = (kind.outcome(), kind.suffix(), kind.status().as_u16());
        written::question(recorder, &asked, said, &Determined::default());
    }
    answered
}

fn counted(
    worker: &Worker,
    request: &RateLimitRequest,
    id: &HeaderValue,
) -> Result<(RateLimitResponse, bool), Failure> {
    if request.descriptors.is_empty() {
        return Err(invalid("expected at least one descriptor"));
    }
    if request.descriptors.len() > DESCRIPTORS {
        return Err(invalid(format!("expected at most {DESCRIPTORS} descriptors")));
    }
    let read: Vec<Descriptor> = request
        .descriptors
        .iter()
        .map(|descriptor| Descriptor::read(descriptor, request))
        .collect::<Result<_, _>>()?;
    // All of one version of each service, and all are read before any is counted.
    let tables: Vec<_> =
        read.iter().map(|one| found(worker, &one.service)).collect::<Result<_, _>>()?;
    let mut response = RateLimitResponse { overall_code: Said::Ok.into(), ..Default::default() };
    let (mut over, mut first) = (None, None);
    for (descriptor, (served, table)) in read.iter().zip(&tables) {
        let Some(service) = table.service.as_deref() else { return Err(unknown()) };
        let asked = descriptor.ask(worker, served, table, service);
        let status = status(&service.limits.limiter, &asked.said);
        let is_over = status.code == i32::from(Said::OverLimit);
        response.statuses.push(status);
        if is_over && over.is_none() {
            response.overall_code = Said::OverLimit.into();
            let said: Vec<&LimitVerdict> = asked.said.iter().collect();
            let problem = refusal::refusal(service, &said, asked.has_key, None);
            response.raw_body = answer::written(problem, id).into_body().to_vec();
            response.response_headers_to_add = told(&asked);
            response
                .response_headers_to_add
                .push(field("content-type", "application/problem+json"));
            over = Some((descriptor, served, table, asked));
        } else {
            if over.is_none() && response.response_headers_to_add.is_empty() {
                response.response_headers_to_add = told(&asked);
            }
            first.get_or_insert((descriptor, served, table, asked));
        }
    }
    let is_over = over.is_some();
    if let (Some(recorder), Some((descriptor, served, table, asked))) =
        (&worker.recorder, over.or(first))
    {
        let service = served.tables.service.as_str();
        record(recorder, id, (descriptor, &asked), (service, table), is_over);
    }
    Ok((response, is_over))
}

fn record(
    recorder: &Recorder,
    id: &HeaderValue,
    (descriptor, asked): (&Descriptor<'_>, &Asked<'_>),
    (service, table): (&str, &Table),
    is_over: bool,
) {
    let kind = Kind::LimitReached;
    let said = match is_over {
        true => (kind.outcome(), kind.suffix(), kind.status().as_u16()),
        false => (Ended::Allowed, "", 200),
    };
    let question = written::Asked {
        request_id: id.to_str().unwrap_or_default(),
        address: descriptor.address,
        method: descriptor.method,
        route: asked.route.as_deref().unwrap_or_default(),
        path: descriptor.path.and_then(|path| path.split('?').next()).unwrap_or_default(),
    };
    let determined = Determined {
        service,
        principal: asked.principal,
        identified_by: if asked.has_key { "api_key" } else { "" },
        table: Some(table),
        ..Determined::default()
    };
    written::question(recorder, &question, said, &determined);
}

/// A descriptor's entries.
#[derive(Default)]
struct Descriptor<'r> {
    service: String,
    address: Option<IpAddr>,
    principal: Option<Uid>,
    api_key: Option<&'r str>,
    method: &'r str,
    path: Option<&'r str>,
    route: Option<&'r str>,
    headers: Vec<(String, &'r str)>,
    hits: u32,
}

impl<'r> Descriptor<'r> {
    fn read(
        descriptor: &'r RateLimitDescriptor,
        request: &RateLimitRequest,
    ) -> Result<Descriptor<'r>, Failure> {
        if descriptor.entries.len() > ENTRIES {
            return Err(invalid(format!("expected at most {ENTRIES} entries in a descriptor")));
        }
        let own = descriptor.hits_addend.map(|hits| u32::try_from(hits.value).unwrap_or(u32::MAX));
        let hits = own.unwrap_or(request.hits_addend).max(1);
        let mut read = Descriptor { service: request.domain.clone(), hits, ..Default::default() };
        for entry in &descriptor.entries {
            let value = entry.value.as_str();
            match entry.key.as_str() {
                "service" => value.clone_into(&mut read.service),
                "remote_address" | "address" => {
                    let address = value.parse::<IpAddr>();
                    let address = address.map_err(|_| {
                        invalid(format!("expected an address in `{}`, got `{value}`", entry.key))
                    })?;
                    read.address = Some(address);
                }
                "principal" => {
                    let principal = value.parse::<Uid>().map_err(|_| {
                        invalid(format!(
                            "expected a principal in Cedar syntax, such as `user::\"alice\"`, in \
                             `principal`, got `{value}`"
                        ))
                    })?;
                    read.principal = Some(principal);
                }
                "api_key" => read.api_key = Some(value),
                "method" => read.method = value,
                "path" => read.path = Some(value),
                "route" => read.route = Some(value),
                name => {
                    let name = name.strip_prefix("header:").unwrap_or(name);
                    read.headers.push((name.to_ascii_lowercase(), value));
                }
            }
        }
        Ok(read)
    }

    fn ask<'t>(
        &'t self,
        worker: &Worker,
        served: &Served,
        table: &'t Table,
        service: &'t Service,
    ) -> Asked<'t> {
        let now = served.tables.limiting.now();
        let limiter = &service.limits.limiter;
        let told = self.route.map(Cow::Borrowed);
        let template = told.or_else(|| self.template(service).map(Cow::Owned));
        let route = template.as_deref();
        let header = |name: &str| {
            let found = self.headers.iter().find(|(own, _)| own == name);
            found.map(|(_, value)| value.as_bytes())
        };
        let key = self.key(served, table);
        let (prefix, key) = key.unzip();
        let principal = self.principal.as_ref().or(key.map(|key| &key.principal));
        let caller = Caller {
            address: self.address.map_or(AddressKey::Local, AddressKey::from),
            principal: principal.map(|uid| (uid.kind.as_str(), uid.id.as_str())),
            api_key: prefix,
            plan: key.map(|key| key.plan.as_str()).filter(|plan| !plan.is_empty()),
            header: &header,
        };
        let by_address =
            limiter.check_address_for(&caller.address, self.method, route, self.hits, now);
        worker.metrics.limited(Phase::LimitAddress, &by_address);
        let is_over = !by_address.is_admitted();
        let mut said = vec![by_address];
        if !is_over {
            let by_principal =
                limiter.check_principal_for(&caller, self.method, route, self.hits, now);
            worker.metrics.limited(Phase::LimitPrincipal, &by_principal);
            said.push(by_principal);
        }
        // Nothing is under way here.
        said.iter_mut().for_each(|said| drop(said.take_permits()));
        Asked { service, has_key: key.is_some(), principal, route: template, said }
    }

    /// The API key that is shown, by its public part, if it holds. One that does not is nobody's: else
    /// whoever knows a public part could use up what its owner may.
    fn key<'t>(&self, served: &Served, table: &'t Table) -> Option<(&'r str, &'t KeyBody)> {
        let shown = self.api_key?;
        let prefix = key::prefix(shown).ok()?;
        let body = table.key(&served.tables.service, prefix)?;
        key::check(shown, body, keepgate_observe::unix_s()).ok()?;
        Some((prefix, body))
    }

    /// The template of the path's route.
    fn template(&self, service: &Service) -> Option<String> {
        let path = self.path?.split('?').next()?;
        let form = path::normal(path, service.paths).ok()?;
        match service.router.matched(self.method, &form) {
            Matched::Found(found) => found.route().map(|route| route.path.clone()),
            _ => None,
        }
    }
}

/// The service of this name; of an empty one the only service.
fn found<'w>(
    worker: &'w Worker,
    name: &str,
) -> Result<(&'w Served, std::sync::Arc<Table>), Failure> {
    let served = match name {
        "" => worker.only().map(std::sync::Arc::as_ref),
        name => worker.service(name),
    };
    let Some(served) = served else {
        return Err(invalid(format!(
            "expected the name of one of the gate's services as the domain, got `{name}`"
        )));
    };
    let table = served.table().filter(|table| table.service.is_some());
    Ok((served, table.ok_or_else(unknown)?))
}

fn unknown() -> Failure {
    Failure::new(Code::Unavailable, "the gate has no limits of the service yet")
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Failure {
    Failure::new(Code::InvalidArgument, message)
}

/// The tightest of what the limits said.
fn status(limiter: &Limiter, said: &[LimitVerdict]) -> DescriptorStatus {
    let reports = said.iter().flat_map(|verdict| {
        verdict.reports().iter().filter(|report| !report.shadow).map(move |one| (verdict, one))
    });
    let tightness = |(_, report): &(&LimitVerdict, &PolicyReport)| {
        (report.outcome == Outcome::Admitted, report.remaining)
    };
    let is_over = said.iter().any(|verdict| !verdict.is_admitted());
    let code = if is_over { Said::OverLimit } else { Said::Ok };
    let Some((verdict, report)) = reports.min_by_key(tightness) else {
        return DescriptorStatus { code: code.into(), ..Default::default() };
    };
    let until_ns = if report.retry_after_ns == 0 { report.reset_ns } else { report.retry_after_ns };
    let seconds = i64::try_from(until_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(until_ns % 1_000_000_000).unwrap_or_default();
    DescriptorStatus {
        code: code.into(),
        current_limit: current(limiter, verdict, report),
        limit_remaining: if is_over { 0 } else { report.remaining },
        duration_until_reset: (report.unit == Unit::Rate).then_some(Duration { seconds, nanos }),
    }
}

/// A rate in the units that there are: 10 in 20 s are 30 a minute.
fn current(limiter: &Limiter, verdict: &LimitVerdict, report: &PolicyReport) -> Option<RateLimit> {
    const UNITS: [(u64, Per); 4] =
        [(1, Per::Second), (60, Per::Minute), (3_600, Per::Hour), (86_400, Per::Day)];
    let policy = limiter.policy(verdict, report)?;
    let quota = policy.quota().filter(|_| report.unit == Unit::Rate)?;
    let period = quota.period();
    let (seconds, unit) =
        UNITS.into_iter().find(|(s, _)| period.as_secs_f64() <= *s as f64).unwrap_or(UNITS[3]);
    let unit_ns = u128::from(seconds) * 1_000_000_000;
    let count = u128::from(quota.count()) * unit_ns / period.as_nanos().max(1);
    Some(RateLimit {
        name: policy.rule().name.clone(),
        requests_per_unit: u32::try_from(count.max(1)).unwrap_or(u32::MAX),
        unit: unit.into(),
    })
}

/// What the caller is told, as with the gate's own answers.
fn told(asked: &Asked<'_>) -> Vec<Field> {
    let said: Vec<&LimitVerdict> = asked.said.iter().collect();
    refusal::fields(asked.service, &said, None)
        .filter_map(|(name, value)| Some(field(name.as_str(), value.to_str().ok()?)))
        .collect()
}

fn field(name: &str, value: &str) -> Field {
    Field { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() }
}
