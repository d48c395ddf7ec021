//! The policies and templates of a service as one Cedar text, read and written whole.
//!
//! A write is a command's, as that of one policy is: an apply of files finds it and names it. What
//! stands in the text as it is stored stays as it is, its file included.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use keepgate_api as api;
use keepgate_policy::bundle::{self, Packed, Packer};
use keepgate_policy::model::PolicyBody;
use keepgate_policy::{Encoded, Item, ItemBody, ItemKey, Kind, Revision};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::input::{Args, Condition, Json, Params};
use super::items::Way;
use super::problem::Problem;
use super::{Answer, App, diff, gains, items, review};
use crate::access::Caller;
use crate::desk::{Anew, Refusal, Step, Work};
use crate::store::{Reading, Row, StoreError};
use crate::token;

/// Bytes of the text; services with more are edited policy by policy, or as files.
const TEXT: usize = 512 << 10;

/// What errors and warnings call the text.
const FILE: &str = "policies.cedar";

/// The kinds of items that stand in it.
const KINDS: [Kind; 2] = [Kind::Policy, Kind::Template];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteArgs {
    /// Everything is checked and reported, nothing changed.
    #[serde(default)]
    dry_run: bool,
}

/// What is stored, as a text.
struct Stored {
    rows: BTreeMap<ItemKey, Row>,
    text: String,
    /// The newest revision that changed one of them; 0: there is none.
    revision: Revision,
}

impl Stored {
    fn read(store: &dyn Reading, service: &str) -> Result<Stored, Refusal> {
        items::service_must_be(store, service)?;
        let (mut rows, mut found, mut bytes) = (BTreeMap::new(), Vec::new(), 0);
        let mut revision = Revision::default();
        for kind in KINDS {
            store.each_of(service, kind, &mut |row| {
                bytes += row.body.len();
                if bytes > TEXT {
                    return Ok(());
                }
                revision = revision.max(row.revision);
                let mut item = Item::decode(row.key.clone(), &row.body)?;
                if let ItemBody::Policy(body) | ItemBody::Template(body) = &mut item.body {
                    FILE.clone_into(&mut body.file);
                }
                found.push(item);
                rows.insert(row.key.clone(), row);
                Ok(())
            })?;
        }
        if bytes > TEXT {
            return Err(Refusal::Unfit(format!(
                "the policies of service `{service}` have more than {TEXT} bytes, too many for one \
                 text; edit them one by one, or as files (`keepgate export`, `keepgate apply`)"
            )));
        }
        let text = bundle::render(service, &found).remove(FILE).unwrap_or_default();
        Ok(Stored { rows, text, revision })
    }

    fn tag(&self) -> String {
        let hash = Sha256::digest(self.text.as_bytes());
        token::hex(hash.get(..8).unwrap_or_default())
    }
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Params(service): Params<String>,
) -> Answer<Response> {
    let (stored, head, service) = app
        .desk
        .read(move |store| Ok((Stored::read(store, &service)?, store.head()?, service)))
        .await?;
    let tag = stored.tag();
    let body = api::CedarText {
        service,
        revision: head.0,
        changed: stored.revision.0,
        policies: stored.rows.len() as u64,
        text: stored.text,
    };
    let mut response = Out(body).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Makes the policies and templates of the service those of the text, as one revision.
pub(crate) async fn put(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    Args(args): Args<WriteArgs>,
    over: Condition,
    Json(asked): Json<api::NewCedarText>,
) -> Answer<Out<api::Applied>> {
    if asked.text.len() > TEXT {
        return Err(Problem::unprocessable(format!("`text`: at most {TEXT} bytes")));
    }
    let work = Arc::new(Work::default());
    let _watch = work.watch();
    let place = app.bulk.enter(&caller, true).await?;
    let around = {
        let service = service.clone();
        app.desk.read(move |store| around(store, &service)).await?
    };
    let packed = {
        let service = service.clone();
        let pack = move || {
            let mut packer = Packer::new(&service);
            around.into_iter().for_each(|(name, text)| packer.file(name, text));
            packer.file(FILE.to_owned(), asked.text);
            packer.finish()
        };
        Arc::new(tokio::task::spawn_blocking(pack).await.map_err(|_| Problem::internal())?)
    };
    let warnings = review::look(&packed, false, &work).await?;
    let told = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let plan = {
        let (packed, told) = (Arc::clone(&packed), Arc::clone(&told));
        let dry_run = args.dry_run;
        move |store: &dyn Reading| {
            let stored = Stored::read(store, &service)?;
            let id = format!("the policies of {service}");
            let tag = format!("\"{}\"", stored.tag());
            over.held(&id, &tag, !stored.rows.is_empty(), stored.revision)?;
            let steps = steps(&stored, &packed)?;
            if dry_run {
                let access = gains::named(store, &service, &packed, &steps)?;
                *told.lock().unwrap_or_else(PoisonError::into_inner) =
                    (access, diffs(&stored, &steps)?);
            }
            Ok(steps.into())
        }
    };
    let way = Way { dry_run: args.dry_run, anew: Anew::Own, place: Some(place) };
    // Of the text alone: of the settings and the schema nothing changes here.
    let mut warnings = warnings;
    warnings.retain(|warning| warning.file.as_deref() == Some(FILE));
    let landed = items::land_bulk(&app, &caller, "policies.put", way, work, plan).await;
    let outcome = landed.map_err(|refusal| match refusal {
        Refusal::Invalid(problems) => Problem::invalid(
            problems.into_iter().map(|problem| problem.placed(|key| packed.place(key))).collect(),
        )
        .warned(warnings.clone()),
        refusal => refusal.into(),
    })?;
    let (access, mut diffs) =
        std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    let mut changed = items::changed(&outcome);
    for (landing, change) in outcome.changes.iter().zip(&mut changed.changes) {
        let at = diffs.iter().position(|(key, _)| *key == landing.key);
        change.diff = at.map(|at| diffs.swap_remove(at).1);
    }
    changed.warnings = warnings;
    Ok(Out(api::Applied {
        changed,
        dry_run: args.dry_run,
        replayed: outcome.replayed,
        ignored: Vec::new(),
        conflicts: Vec::new(),
        conflicts_total: None,
        stays: Vec::new(),
        access,
        stays_total: None,
        samples: Vec::new(),
        routes_total: None,
    }))
}

/// The files that say what the text is held against: settings and schema.
fn around(store: &dyn Reading, service: &str) -> Result<BTreeMap<String, String>, Refusal> {
    items::service_must_be(store, service)?;
    let mut found = Vec::new();
    for key in [ItemKey::service(service), ItemKey::schema(service)] {
        if let Some(row) = store.item(&key)? {
            found.push(Item::decode(row.key, &row.body).map_err(StoreError::from)?);
        }
    }
    Ok(bundle::render(service, &found))
}

/// From what is stored to what the text says, in key order.
fn steps(stored: &Stored, packed: &Packed) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    for item in packed.items().filter(|item| KINDS.contains(&item.key.kind)) {
        let before = stored.rows.get(&item.key);
        let mut wanted = item.decode().map_err(StoreError::from)?;
        if let ItemBody::Policy(body) | ItemBody::Template(body) = &mut wanted.body {
            let held = before.map(Row::parsed::<PolicyBody>).transpose()?;
            body.file = held.map(|held| held.file).unwrap_or_default();
        }
        steps.extend(Step::new(&item.key, before, Some(&Arc::new(Encoded::of(&wanted)))));
    }
    for (key, row) in &stored.rows {
        if packed.find(key).is_none() {
            steps.extend(Step::new(key, Some(row), None));
        }
    }
    steps.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(steps)
}

/// How each text changes, line by line.
fn diffs(stored: &Stored, steps: &[Step]) -> Result<Vec<(ItemKey, String)>, Refusal> {
    let text = |body: Result<PolicyBody, StoreError>| Ok::<_, Refusal>(body?.text);
    let mut diffs = Vec::new();
    for step in steps.iter().filter(|step| step.op() != api::Op::Delete) {
        let before = stored.rows.get(&step.key).map(|row| text(row.parsed())).transpose()?;
        let after = step.after.as_ref().map(|after| after.decode()).transpose();
        let after = match after.map_err(StoreError::from)?.map(|item| item.body) {
            Some(ItemBody::Policy(body) | ItemBody::Template(body)) => body.text,
            _ => String::new(),
        };
        let diff = diff::unified(&before.unwrap_or_default(), &after);
        diffs.push((step.key.clone(), diff));
    }
    Ok(diffs)
}
