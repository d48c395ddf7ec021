//! Policies, templates and schemas as texts: Cedar's parser, and its errors with their lines.
//!
//! Every text is scanned before it is parsed ([`scan`]), is parsed where the stack suffices
//! ([`crate::stack`]), and leaves this module with balanced chains ([`balance`]) and within
//! [`MAX_DEPTH`]. So whoever walks, clones, prints or drops what comes from here recurses at most
//! that deep.

mod balance;
mod from_json;
mod scan;
pub(crate) mod schema;

use cedar_policy_core::ast::{PolicyID, StaticPolicy, Template};
use cedar_policy_core::parser::{self, Loc};
use miette::Diagnostic;

pub(crate) use self::from_json::{policy_text, schema_text};
pub use self::scan::{MAX_DEPTH, MAX_TERMS, MAX_TOKENS};
pub use self::schema::{MAX_ENVIRONMENTS, MAX_HIERARCHY, MAX_MEMBERS, MAX_TYPES};
use crate::spot::Spot;
use crate::stack::{self, Need};

/// The longest message about a text in bytes; Cedar quotes expressions whole.
const MAX_MESSAGE: usize = 2_000;

/// The most errors that are told of one text.
const MAX_MORE: usize = 20;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyError {
    /// The place within the text, where it is known.
    pub(crate) spot: Option<Spot>,
    /// What Cedar says, with its help.
    pub(crate) message: String,
    /// Whether the text may be right, but is beyond a bound.
    pub(crate) is_bound: bool,
    /// What else is wrong with the same text: places and messages.
    pub(crate) more: Vec<(Option<Spot>, String)>,
}

impl PolicyError {
    /// Something about the text as a whole.
    pub(crate) fn whole(message: impl Into<String>) -> PolicyError {
        PolicyError { spot: None, message: message.into(), is_bound: false, more: Vec::new() }
    }

    /// The text is beyond a bound at this offset.
    fn beyond(text: &str, offset: usize, message: String) -> PolicyError {
        let spot = Some(Spot::of(text, offset, 0));
        PolicyError { spot, message, is_bound: true, more: Vec::new() }
    }

    /// Each error of the text: its place and message.
    pub(crate) fn all(self) -> impl Iterator<Item = (Option<Spot>, String)> {
        std::iter::once((self.spot, self.message)).chain(self.more)
    }

    fn too_deep(text: &str, offset: Option<usize>) -> PolicyError {
        let message = format!(
            "it nests more than {MAX_DEPTH} levels deep, at most {MAX_DEPTH} are allowed; each \
             bracket, `if`, operator, access and call is a level; divide it"
        );
        let spot = offset.map(|at| Spot::of(text, at, 0));
        PolicyError { spot, message, is_bound: true, more: Vec::new() }
    }
}

/// What a text must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A policy without slots.
    Policy,
    /// A policy with at least one slot.
    Template,
    /// Either.
    Any,
}

/// Parses a policy or template and hands it on, on the stack that suffices for both.
pub(crate) fn read<T: Send>(
    sort: Sort,
    id: Option<&str>,
    text: &str,
    then: impl FnOnce(Template) -> Result<T, PolicyError> + Send,
) -> Result<T, PolicyError> {
    let scan = scan::policy(text)?;
    let need = if scan.is_small() { Need::Small } else { Need::Large };
    let read = stack::run(need, || {
        let template = parsed(sort, id, text)?;
        if need == Need::Small {
            return then(template);
        }
        let template = balance::balanced(template);
        match balance::height(&template, MAX_DEPTH) {
            (height, _) if height <= MAX_DEPTH => then(template),
            (_, deep) => Err(PolicyError::too_deep(text, deep.as_ref().map(Loc::start))),
        }
    });
    read.unwrap_or_else(|error| Err(PolicyError::whole(error.to_string())))
}

/// What a text needs to be worked on; one that is beyond a bound is not worked on.
pub(crate) fn need(text: &str) -> Need {
    match scan::policy(text) {
        Ok(scan) if !scan.is_small() => Need::Large,
        _ => Need::Small,
    }
}

/// How many tokens a text has; none of one that is beyond a bound.
pub(crate) fn tokens(text: &str) -> usize {
    scan::policy(text).map_or(0, |scan| scan.tokens)
}

/// A policy or template for a policy set; of a static policy the template without slots.
pub(crate) fn template(sort: Sort, id: &str, text: &str) -> Result<Template, PolicyError> {
    read(sort, Some(id), text, Ok)
}

/// The `@id` of a text, if it has one.
pub(crate) fn annotated_id(sort: Sort, text: &str) -> Result<Option<String>, PolicyError> {
    read(sort, None, text, |template| Ok(id_of(&template).map(str::to_owned)))
}

/// The value of the annotation `@id`.
pub(crate) fn id_of(template: &Template) -> Option<&str> {
    let mut annotations = template.annotations();
    annotations.find(|(key, _)| key.as_ref() == "id").map(|(_, id)| id.as_ref())
}

fn parsed(sort: Sort, id: Option<&str>, text: &str) -> Result<Template, PolicyError> {
    let id = id.map(PolicyID::from_string);
    let parsed = match sort {
        Sort::Policy => parser::parse_policy(id, text).map(static_template),
        Sort::Template => parser::parse_template(id, text),
        Sort::Any => parser::parse_policy_or_template(id, text),
    };
    parsed.map_err(|errors| explained(&errors, text))
}

fn static_template(policy: StaticPolicy) -> Template {
    let (template, _) = Template::link_static_policy(policy);
    std::sync::Arc::unwrap_or_clone(template)
}

/// A Cedar error about a text, with its causes and its help, and those that came with it.
pub(crate) fn explained<E: Diagnostic>(error: &E, text: &str) -> PolicyError {
    let (spot, message) = told(error, text);
    let mut more: Vec<(Option<Spot>, String)> = Vec::new();
    for other in error.related().into_iter().flatten().take(MAX_MORE) {
        let other = told(other, text);
        if other != (spot, message.clone()) && !more.contains(&other) {
            more.push(other);
        }
    }
    PolicyError { spot, message, is_bound: false, more }
}

/// One error in one line, and its place.
fn told<E: Diagnostic + ?Sized>(error: &E, text: &str) -> (Option<Spot>, String) {
    let label = error.labels().and_then(|mut labels| labels.next());
    let mut message = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = one_line(&cause.to_string());
        if !message.ends_with(&cause_text) {
            message.push_str(": ");
            message.push_str(&cause_text);
        }
        source = cause.source();
    }
    if let Some(help) = error.help() {
        message.push_str("; ");
        message.push_str(&one_line(&help.to_string()));
    }
    shorten(&mut message);
    (label.map(|label| Spot::of(text, label.offset(), label.len())), message)
}

/// Cuts what is too long for an answer.
pub(crate) fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push_str(" ..");
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
