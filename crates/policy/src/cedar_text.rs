//! Policies, templates and schemas as texts: Cedar's parser, and its errors with their lines.

use std::error::Error;

use cedar_policy::{Policy, PolicyId, Template};
use miette::Diagnostic;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyError {
    /// The line within the text, counted from 1, where it is known.
    pub(crate) line: Option<usize>,
    /// What Cedar says, with its help.
    pub(crate) message: String,
}

pub(crate) fn policy(id: Option<&str>, text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(id.map(PolicyId::new), text).map_err(|errors| explained(&errors, text))
}

pub(crate) fn template(id: Option<&str>, text: &str) -> Result<Template, PolicyError> {
    Template::parse(id.map(PolicyId::new), text).map_err(|errors| explained(&errors, text))
}

/// A Cedar error about a text, in one line, with its causes and its help.
pub(crate) fn explained<E: Diagnostic>(error: &E, text: &str) -> PolicyError {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let mut message = one_line(&error.to_string());
    let mut source = Error::source(error);
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
    let line = offset.map(|offset| {
        let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    });
    PolicyError { line, message }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
