//! Requests for access: what callers ask through a gate's page or the center's own, and what is decided about them.
//!
//! INVARIANT: a code is told once, to the one who asked, and is stored hashed; a key is made at the moment
//! in which it is fetched, and never stored in clear. A code that is not known and one that was used are
//! answered alike. Where the center cannot tell, it says so, and never "declined".

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_policy::model::KeyBody;
use keepgate_policy::proto::caller_answer::Answer;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{
    AccessAsked, AskAccess, CallerAnswer, CallerQuestion, CallerRefused, FetchKey, KeyMade,
};
use keepgate_policy::{Change, Item, ItemBody, ItemKey, Kind};
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::attempts::Attempts;
use crate::desk::{Desk, Edit, EditPlan, Refusal, Scope};
use crate::metrics::Metrics;
use crate::store::{
    RequestBody, RequestBounds, RequestChange, RequestRow, RequestState, RequestsOf,
};
use crate::token;
use crate::webhook::Webhook;

/// Bytes of a question, of who asks, of what for, of an address, and of a code, at most.
const QUESTION_BYTES: usize = 1024;
const WHO_BYTES: usize = 200;
const WHAT_FOR_BYTES: usize = 500;
const ADDRESS_BYTES: usize = 64;
const CODE_BYTES: usize = 64;
/// Requests a day that can be asked for.
const PER_DAY: std::ops::RangeInclusive<u64> = 1..=1_000_000_000;
/// Questions that are answered at the same time, over all gates.
const AT_ONCE: usize = 64;
/// The action under which a key is made for the one who fetches it.
const FETCH: &str = "request.fetch";

/// See the module.
pub(crate) struct Requests {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    asks: Attempts,
    codes: Attempts,
    places: Semaphore,
    /// Hears of each new one; none: nobody does.
    pub(crate) webhook: Option<Webhook>,
}

fn refused(reason: &str, wait: Duration) -> Answer {
    let retry_after_s = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
    Answer::Refused(CallerRefused { reason: reason.to_owned(), retry_after_s })
}

fn now_refused(reason: &str) -> Answer {
    refused(reason, Duration::ZERO)
}

impl Requests {
    pub(crate) fn new(
        desk: Arc<Desk>,
        metrics: Arc<Metrics>,
        webhook: Option<Webhook>,
    ) -> Requests {
        let places = Semaphore::new(AT_ONCE);
        Requests {
            desk,
            metrics,
            asks: Attempts::default(),
            codes: Attempts::default(),
            places,
            webhook,
        }
    }

    /// Answers a caller's question that came by the follower with this token, or by the page that bears
    /// this name in place of one.
    pub(crate) async fn answer(
        &self,
        token: &str,
        scope: &Scope,
        asked: CallerQuestion,
    ) -> CallerAnswer {
        let id = asked.id;
        let answer = match self.places.try_acquire() {
            Ok(_place) => self.answered(token, scope, asked).await,
            Err(_) => now_refused("unavailable"),
        };
        let outcome = match &answer {
            Answer::Asked(_) => &self.metrics.requests_asked,
            Answer::Key(_) => &self.metrics.requests_fetched,
            Answer::Refused(_) => &self.metrics.requests_refused,
        };
        outcome.add(1);
        CallerAnswer { id, answer: Some(answer) }
    }

    async fn answered(&self, token: &str, scope: &Scope, asked: CallerQuestion) -> Answer {
        let size = prost::Message::encoded_len(&asked);
        let CallerQuestion { service, address, question, .. } = asked;
        let is_known = self.desk.head().services.contains_key(&service);
        if size > QUESTION_BYTES
            || address.len() > ADDRESS_BYTES
            || !is_known
            || !scope.covers(&service)
        {
            return now_refused("invalid");
        }
        let from = counted_by(&address, token);
        let now = Instant::now();
        match question {
            Some(Question::AskAccess(ask)) => {
                if let Err(wait) = self.asks.count(from, now) {
                    return refused("too-many", wait);
                }
                self.ask(token, service, address, ask).await
            }
            Some(Question::FetchKey(FetchKey { code })) => {
                if let Err(wait) = self.codes.may(from, now) {
                    return refused("too-many", wait);
                }
                let answer = self.fetch(token, service, &code).await;
                if matches!(&answer, Answer::Refused(refused) if refused.reason == "unknown") {
                    self.codes.wrong(from, now);
                }
                answer
            }
            None => now_refused("invalid"),
        }
    }

    async fn ask(&self, token: &str, service: String, address: String, ask: AskAccess) -> Answer {
        let AskAccess { who, what_for, per_day } = ask;
        let is_text = |text: &str, most: usize| {
            let has_text = text.chars().any(|c| !c.is_whitespace());
            has_text && text.len() <= most && !text.chars().any(|c| is_hidden(c) && c != '\n')
        };
        if !is_text(&who, WHO_BYTES)
            || !is_text(&what_for, WHAT_FOR_BYTES)
            || !PER_DAY.contains(&per_day)
        {
            return now_refused("invalid");
        }
        let (mut secret, mut tail) = ([0; 20], [0; 3]);
        let random = SystemRandom::new();
        if random.fill(&mut secret).and_then(|()| random.fill(&mut tail)).is_err() {
            return now_refused("unavailable");
        }
        let code = format!("kgr_{}", token::hex(&secret));
        let now = keepgate_observe::unix_s();
        let row = RequestRow {
            id: format!("{now:010x}{}", token::hex(&tail)),
            service,
            state: RequestState::Pending,
            code_sha256: hash(&code),
            address,
            created_unix_s: now,
            changed_unix_s: now,
            told: self.webhook.is_none(),
            body: RequestBody {
                who,
                what_for,
                per_day,
                gate: token.to_owned(),
                ..RequestBody::default()
            },
        };
        let change = RequestChange::Ask(row.clone(), RequestBounds::DEFAULT);
        match self.desk.request(change).await {
            Ok(true) => {
                if let Some(webhook) = &self.webhook {
                    webhook.tell(row);
                }
                Answer::Asked(AccessAsked { code })
            }
            Ok(false) => now_refused("full"),
            Err(error) => self.unavailable(&error),
        }
    }

    async fn fetch(&self, token: &str, service: String, code: &str) -> Answer {
        if code.is_empty() || code.len() > CODE_BYTES {
            return now_refused("unknown");
        }
        let sha256 = hash(code);
        let found =
            self.desk.read(move |store| Ok(store.requests(RequestsOf::Code(&sha256))?.pop()));
        let row = match found.await {
            Ok(row) => row.filter(|row| row.service == service),
            Err(error) => return self.unavailable(&error),
        };
        match row.map(|row| row.state) {
            None | Some(RequestState::Fetched) => return now_refused("unknown"),
            Some(RequestState::Pending) => return now_refused("pending"),
            Some(RequestState::Declined) => return now_refused("declined"),
            Some(RequestState::Approved) => {}
        }
        let Ok(minted) = token::mint("kgk") else { return now_refused("unavailable") };
        let (prefix, key_sha256) = (minted.id.clone(), token::hex(&minted.sha256));
        let plan_name = Arc::new(std::sync::OnceLock::new());
        let told = Arc::clone(&plan_name);
        // In the transaction again: of two who fetch at once, one gets a key.
        let plan = Box::new(move |store: &dyn crate::store::Reading, _: &crate::desk::Head| {
            let found = store.requests(RequestsOf::Code(&sha256))?.pop();
            let spent = || Refusal::Unfit("the code was used".to_owned());
            let mut row =
                found.filter(|row| row.state == RequestState::Approved).ok_or_else(spent)?;
            let principal = row.body.principal.clone().ok_or_else(spent)?;
            let _first = told.set(row.body.plan.clone());
            let key = KeyBody {
                prefix: prefix.clone(),
                sha256: key_sha256,
                principal,
                plan: row.body.plan.clone(),
                expires_unix_s: row.body.expires_unix_s,
                note: note(&row),
            };
            let item = Item {
                key: ItemKey::new(&row.service, Kind::Key, &prefix),
                body: ItemBody::Key(key),
            };
            row.state = RequestState::Fetched;
            row.changed_unix_s = keepgate_observe::unix_s();
            row.body.key = prefix;
            let (changes, requests) = (vec![Change::Put(item)], vec![row]);
            Ok(EditPlan { changes, requests, ..EditPlan::default() })
        });
        let actor = token.to_owned();
        let edit = Edit { actor, action: FETCH, dry_run: false, write_id: None, plan };
        match self.desk.edit(edit).await {
            Ok(_) => {
                let plan = plan_name.get().cloned().unwrap_or_default();
                Answer::Key(KeyMade { key: minted.text, plan })
            }
            Err(Refusal::Unfit(_)) => now_refused("unknown"),
            Err(error) => self.unavailable(&error),
        }
    }

    fn unavailable(&self, error: &Refusal) -> Answer {
        let error = keepgate_observe::chain(error);
        tracing::warn!(error, "a question of a caller could not be answered");
        now_refused("unavailable")
    }
}

/// A character that makes a text look like another one to those who decide: controls, and those that turn
/// the direction of writing (Unicode, UAX #9).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What people read beside the key.
fn note(row: &RequestRow) -> String {
    let who: String = row.body.who.chars().take(100).collect();
    format!("request {}: {}", row.id, who.replace('\n', " "))
}

fn hash(code: &str) -> [u8; 32] {
    Sha256::digest(code.as_bytes()).into()
}

/// By what tries are counted: the caller's address; where it has none, an address that stands for its
/// gate's token, so that those behind one gate do not hold up those behind another.
fn counted_by(address: &str, token: &str) -> Option<IpAddr> {
    address.parse().ok().or_else(|| {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let bits = u128::from_be_bytes(*hash.first_chunk()?);
        // Unique local addresses (RFC 4193): no caller comes from one by the Internet.
        Some(IpAddr::V6(Ipv6Addr::from_bits(bits >> 8 | 0xfd << 120)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_without_an_address_are_counted_by_gate() {
        assert_eq!(counted_by("192.0.2.1", "a"), "192.0.2.1".parse().ok());
        let (a, b) = (counted_by("", "a"), counted_by("", "b"));
        assert!(a.is_some() && a != b);
        assert!(a.unwrap().to_string().starts_with("fd"), "{a:?}");
        assert_eq!(counted_by("a:socket", "a"), a);
    }
}
