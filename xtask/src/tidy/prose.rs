//! Checks on the words that people read: plain American English in the documents, and in the string
//! literals of the product. Comments and unit tests are not checked.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::literals::literals;

/// Words and phrases to avoid.
const AVOIDED: &str =
    "whoever, whatever, so many, by habit, told by, for want of, stands for, the like";

/// How words in British spelling begin.
const BRITISH: &str = "authoris, behaviour, cancelled, catalogue, centre, colour, defence, \
                       deserialis, favour, grey, honour, initialis, labelled, licence, neighbour, \
                       normalis, organis, recognis, serialis, travelling, unauthoris";

/// Documents in the root. In `docs`, all are checked.
const DOCUMENTS: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];

pub(super) fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files {
        let shown = file.display().to_string();
        let is_document = DOCUMENTS.contains(&shown.as_str())
            || (shown.starts_with("docs/") && shown.ends_with(".md"));
        let is_source = shown.starts_with("crates/") && shown.ends_with(".rs");
        let is_product = is_source && shown.contains("/src/") && !shown.ends_with("/tests.rs");
        if !is_document && !is_product {
            continue;
        }
        let text =
            std::fs::read_to_string(root.join(file)).with_context(|| format!("reading {shown}"))?;
        let parts = match shown.as_str() {
            // Its code blocks are the help texts.
            "docs/cli.md" => vec![(1, text.as_str())],
            _ if is_document => outside_code(&text),
            _ => literals(&text),
        };
        for (line, part) in parts {
            for (line, problem) in wording(line, part) {
                problems.push(format!("{shown}:{line}: {problem}"));
            }
            if is_product && is_inverted(part) {
                problems.push(format!("{shown}:{line}: `is no`: write \"expected X, got `y`\""));
            }
        }
    }
    Ok(problems)
}

/// The parts of a document outside of its code blocks, each with its first line.
fn outside_code(document: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut line = 1;
    for (index, part) in document.split("```").enumerate() {
        if index % 2 == 0 {
            found.push((line, part));
        }
        line += part.matches('\n').count();
    }
    found
}

/// What is wrong with the words of a text, by line. A phrase may go over the end of a line.
fn wording(first: usize, text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (number, line) in (first..).zip(text.lines()) {
        let parts = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
        words.extend(parts.filter(|word| !word.is_empty()).map(|w| (number, w.to_lowercase())));
    }
    let mut found = Vec::new();
    for (at, (line, word)) in words.iter().enumerate() {
        for phrase in AVOIDED.split(", ") {
            let mut from_here = words.iter().skip(at).map(|(_, word)| word.as_str());
            if phrase.split(' ').all(|wanted| from_here.next() == Some(wanted)) {
                found.push((*line, format!("`{phrase}`: use plainer words")));
            }
        }
        if BRITISH.split(", ").any(|stem| word.starts_with(stem)) {
            found.push((*line, format!("`{word}`: use the American spelling")));
        }
    }
    found
}

/// Whether a literal says that something in backticks "is no" something.
fn is_inverted(literal: &str) -> bool {
    let words: Vec<&str> = literal.split_whitespace().filter(|word| *word != "\\").collect();
    words.join(" ").split("` is no ").skip(1).any(|rest| !rest.starts_with("longer"))
}
