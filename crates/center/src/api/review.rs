//! The files of an apply before anything is held against the store: all that is wrong with them at once,
//! and what is valid and likely not meant.

use std::sync::Arc;

use keepgate_api as api;
use keepgate_policy::bundle::Packed;
use keepgate_policy::caution::{self, Warning};
use keepgate_policy::{Encoded, Item, ItemKey, Kind, Spot, look_alike, validate};

use super::Answer;
use super::problem::Problem;
use crate::desk::{self, EditProblem, Stage, Work};

/// Problems that are told at once.
const TOLD: usize = 1_000;

/// Warnings about the files, also of a refusal; a refusal where some of them cannot be read, or where there are warnings
/// and none may be (`strict`).
pub(crate) async fn look(
    packed: &Arc<Packed>,
    strict: bool,
    work: &Arc<Work>,
) -> Answer<Vec<api::Warning>> {
    let (files, at) = (Arc::clone(packed), Arc::clone(work));
    // Large services take a while to look at: not on the runtime's threads.
    let found = tokio::task::spawn_blocking(move || review(&files, &at)).await;
    let (problems, warnings) = found.map_err(|_| Problem::internal())?;
    let refused = if !packed.errors().is_empty() {
        problems
    } else if strict {
        warnings.iter().map(as_problem).collect()
    } else {
        Vec::new()
    };
    if refused.is_empty() {
        return Ok(warnings);
    }
    // Those that `strict` refuses are said as problems.
    let beside = if packed.errors().is_empty() { Vec::new() } else { warnings };
    Err(Problem::invalid(refused).warned(beside))
}

fn review(packed: &Packed, work: &Work) -> (Vec<EditProblem>, Vec<api::Warning>) {
    work.begin(Stage::Read, packed.len());
    let is_partial = !packed.errors().is_empty();
    // Where an id occurs twice, that is told; the first one is looked at.
    let mut last: Option<&ItemKey> = None;
    let each: Vec<&Encoded> = packed
        .items()
        .map(|item| &**item)
        .filter(|item| last.replace(&item.key) != Some(&item.key))
        .collect();
    let looked = validate::review(each.iter().copied(), is_partial, || !work.is_given_up());
    let mut problems: Vec<EditProblem> =
        packed.errors().iter().cloned().map(EditProblem::from).collect();
    // Of very many errors, the last says how many more there are: it stays the last.
    let mut more = (problems.len() > TOLD).then(|| problems.pop()).flatten();
    let placed = looked.problems.into_iter().map(EditProblem::from);
    problems.extend(placed.map(|problem| problem.placed(|key| packed.place(key))));
    problems.sort_by(|a, b| (&a.file, a.line, &a.message).cmp(&(&b.file, b.line, &b.message)));
    if problems.len() > TOLD {
        let message = format!("{} more errors are not shown", problems.len() - TOLD);
        more.get_or_insert(EditProblem { key: None, file: None, line: None, span: None, message });
        problems.truncate(TOLD);
    }
    problems.extend(more);
    let shown = |found: Warning| warning(packed, &found.key, found.spot, found.message);
    if is_partial {
        // Of what could be read; what is said of all files together may be wrong of a part.
        return (problems, looked.warnings.into_iter().map(shown).collect());
    }
    // Entities and memberships come in millions; of them only the ids are looked at.
    let is_asked = |kind| !matches!(kind, Kind::Entity | Kind::Member | Kind::Role);
    let asked = each.iter().filter(|item| is_asked(item.key.kind));
    let items: Vec<Item> = asked.filter_map(|item| item.decode().ok()).collect();
    let mut warnings = caution::warnings(&items);
    drop(items);
    warnings.extend(looked.warnings);
    warnings.extend(look_alike::warnings(each.iter().copied()));
    (problems, warnings.into_iter().map(shown).collect())
}

/// A warning about an item, with its place where it is from a file; `spot`: within the item's text.
pub(crate) fn warning(
    packed: &Packed,
    key: &ItemKey,
    spot: Option<Spot>,
    message: String,
) -> api::Warning {
    let place = packed.place(key).map(|place| place.within(spot));
    let span = place.as_ref().and_then(|place| place.span);
    api::Warning {
        id: desk::shown_id(key).to_owned(),
        message,
        gate: None,
        line: place.as_ref().map(|place| place.line as u64),
        column: span.map(|span| span.column as u64),
        length: span.map(|span| span.length as u64),
        file: place.map(|place| place.file),
    }
}

fn as_problem(warning: &api::Warning) -> EditProblem {
    EditProblem {
        key: None,
        file: warning.file.clone(),
        line: warning.line.and_then(|line| usize::try_from(line).ok()),
        span: None,
        message: format!("`{}`: {} (a warning, refused by `strict`)", warning.id, warning.message),
    }
}
