//! Checks on the modules of each crate: none reaches itself in a circle, and the gate has few rooms
//! on its ground floor.
//!
//! A file is a module, and it depends on another when its product code names something in that: in a
//! `use`, or by a path that begins with `crate`, `super`, `self` or a module of its own. What a module
//! only passes on (`pub use child::Thing`) counts for whoever names it there. Unit tests are left
//! out. Both graphs are checked: that of the files, and that of the modules in the crate's root.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::literals::tokens;

/// What may be in a circle: a module with all that is in it, or a whole crate (`""`), and why. There
/// must still be a circle in it.
const EXCUSED: &[(&str, &str, &str)] = &[
    (
        "center",
        "",
        "the parts of `api`, `desk` and `store` name what their parent holds, and it them",
    ),
    ("client", "dial", "an error names the TLS settings that it is about, and they fail with it"),
    ("client", "replica", "the parts of the replica work on what `mod.rs` holds"),
    (
        "keepgate",
        "",
        "the command line lists its commands, which name what it reads for all of them",
    ),
    ("lab", "", "an actor and its parts, a run and its report are one program each"),
    (
        "limit",
        "",
        "a limiter and its verdicts are one thing in two files; so are the parts of `top`",
    ),
    ("policy", "", "items, bundles and worlds are one format, whose types name each other"),
    ("ports", "", "`rules` lists its rules, which name the situation that it hands to them"),
    ("serve", "", "a place, its seat and the list of both are one thing in three files"),
];

/// How many modules the root of a crate may have at most.
const ROOMS: &[(&str, usize)] = &[("gate", 11)];

pub(super) fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut crates: BTreeMap<&str, Vec<(Vec<&str>, String)>> = BTreeMap::new();
    for file in files {
        let Some((name, module)) = module_of(file) else { continue };
        let shown = file.display();
        let source =
            std::fs::read_to_string(root.join(file)).with_context(|| format!("reading {shown}"))?;
        crates.entry(name).or_default().push((module, source));
    }
    let mut problems = Vec::new();
    for (name, sources) in &crates {
        let excused: BTreeMap<&str, &str> =
            EXCUSED.iter().filter(|(of, ..)| of == name).map(|(_, m, why)| (*m, *why)).collect();
        problems.extend(of_crate(name, sources, &excused));
    }
    Ok(problems)
}

fn of_crate(
    name: &str,
    sources: &[(Vec<&str>, String)],
    excused: &BTreeMap<&str, &str>,
) -> Vec<String> {
    let modules = Modules::read(sources);
    let mut problems = Vec::new();
    let rooms: BTreeSet<&str> = sources.iter().filter_map(|(m, _)| m.first().copied()).collect();
    if let Some((_, most)) = ROOMS.iter().find(|(of, most)| *of == name && rooms.len() > *most) {
        problems.push(format!(
            "crate `{name}` has {} modules in its root; at most {most} are allowed",
            rooms.len()
        ));
    }
    let files = modules.graph();
    let roots = files.of_roots();
    // A crate of a file or two is a sketch.
    for (module, why) in excused.iter().filter(|_| sources.len() > 2) {
        if why.is_empty() {
            problems.push(format!("crate `{name}`: the exception for `{module}` has no reason"));
        }
        if !files.circles(&[]).iter().chain(&roots.circles(&[])).any(|circle| circle.has(module)) {
            problems.push(format!("crate `{name}`: no circle is in `{module}` any more"));
        }
    }
    let excused: Vec<&str> = excused.keys().copied().collect();
    let mut circles = files.circles(&excused);
    circles.extend(roots.circles(&excused));
    let circles: BTreeSet<String> = circles.into_iter().map(|circle| circle.0).collect();
    problems.extend(circles.iter().map(|circle| {
        format!("crate `{name}`: modules in a circle: {circle}; turn one arrow around")
    }));
    problems
}

/// The crate of a source file, and which module of it the file is; none: not a product's.
fn module_of(file: &Path) -> Option<(&str, Vec<&str>)> {
    let mut parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
    let stem = parts.pop()?.strip_suffix(".rs")?;
    let [folder, name, src, inside @ ..] = parts.as_slice() else { return None };
    if *folder != "crates" || *src != "src" || inside.first() == Some(&"bin") || stem == "tests" {
        return None;
    }
    let mut module = inside.to_vec();
    match (stem, inside.is_empty()) {
        ("mod", false) | ("lib" | "main", true) => {}
        _ => module.push(stem),
    }
    Some((name, module))
}

/// A module's path from the crate's root: `phase::decide`. The root's is empty.
type Name = String;

/// A path as a source has it, by its segments.
type Named = Vec<String>;

/// What one file says.
#[derive(Default)]
struct Module {
    /// Names that a `use` brings in, and what they are.
    imports: Vec<(String, Named)>,
    /// What `use` brings in whole.
    globs: Vec<Named>,
    /// Imports that are passed on, and named nowhere else here.
    passed_on: BTreeSet<String>,
    /// All paths in the rest of the file.
    paths: Vec<Named>,
    /// Items that are defined here.
    items: BTreeSet<String>,
}

struct Modules(BTreeMap<Name, Module>);

impl Modules {
    fn read(sources: &[(Vec<&str>, String)]) -> Modules {
        let names: BTreeSet<Name> = sources.iter().map(|(module, _)| module.join("::")).collect();
        let mut modules = BTreeMap::new();
        for (module, source) in sources {
            let read: &mut Module = modules.entry(module.join("::")).or_default();
            Reader { names: &names, scope: module.iter().map(|m| (*m).to_owned()).collect() }
                .read(source, read);
        }
        Modules(modules)
    }

    fn graph(&self) -> Graph {
        let mut edges: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for (name, module) in &self.0 {
            let own = edges.entry(name.clone()).or_default();
            let imports = module.imports.iter().filter(|(alias, path)| {
                let inner = self.file_of(path).is_some_and(|file| is_within(&file, name));
                !(inner && module.passed_on.contains(alias))
            });
            // A glob brings in whatever is passed on there.
            let passed = module.globs.iter().filter_map(|glob| self.0.get(&self.file_of(glob)?));
            let passed = passed.flat_map(|there| there.imports.iter().map(|(_, path)| path));
            let named = imports.map(|(_, path)| path).chain(&module.globs).chain(&module.paths);
            let named = named.chain(passed);
            own.extend(named.filter_map(|path| self.target(path, 0)).filter(|to| to != name));
        }
        Graph(edges)
    }

    /// The file that a path leads into: the longest part of it that is a module.
    fn file_of(&self, path: &[String]) -> Option<Name> {
        let mut part = path;
        loop {
            let name = part.join("::");
            if self.0.contains_key(&name) {
                return Some(name);
            }
            part = part.split_last()?.1;
        }
    }

    /// The module that defines what a path names, behind whatever passes it on.
    fn target(&self, path: &[String], depth: usize) -> Option<Name> {
        let file = self.file_of(path)?;
        let module = self.0.get(&file)?;
        let length = if file.is_empty() { 0 } else { file.split("::").count() };
        let Some((item, rest)) = path.get(length..).and_then(<[String]>::split_first) else {
            return Some(file);
        };
        if module.items.contains(item) || depth > 16 {
            return Some(file);
        }
        if let Some((_, import)) = module.imports.iter().find(|(alias, _)| alias == item) {
            let full: Named = import.iter().chain(rest).cloned().collect();
            return self.target(&full, depth + 1).or(Some(file));
        }
        let through = module.globs.iter().find_map(|glob| {
            let full: Named = glob.iter().chain([item]).chain(rest).cloned().collect();
            let at = self.target(&full, depth + 1)?;
            self.0.get(&at)?.items.contains(item).then_some(at)
        });
        through.or(Some(file))
    }
}

fn is_within(name: &str, outer: &str) -> bool {
    outer.is_empty() || name.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// Reads one file.
struct Reader<'n> {
    names: &'n BTreeSet<Name>,
    /// The module that is read, and those within it that the reader is in.
    scope: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self, source: &str, into: &mut Module) {
        let tokens = tokens(source);
        let mut passed_on: BTreeSet<String> = BTreeSet::new();
        let mut words: BTreeMap<&str, usize> = BTreeMap::new();
        // The depth of braces at which each module within the file ends.
        let (mut depth, mut ends) = (0_usize, Vec::new());
        let mut rest = tokens.as_slice();
        let mut before = "";
        while let Some((token, after)) = rest.split_first() {
            match (*token, after) {
                // Not the `use<..>` of what a type captures.
                ("use", [next, ..]) if *next != "<" => {
                    let length = after.iter().position(|t| *t == ";").unwrap_or(after.len());
                    let (tree, beyond) = after.split_at(length);
                    let public = matches!(before, "pub" | ")");
                    let mut found = Vec::new();
                    used(tree, &mut Vec::new(), &mut found);
                    for (path, name) in found {
                        let Some(path) = self.absolute(&path) else { continue };
                        match name {
                            None => into.globs.push(path),
                            Some(name) => {
                                passed_on.extend(public.then(|| name.clone()));
                                into.imports.push((name, path));
                            }
                        }
                    }
                    rest = beyond;
                    before = "use";
                    continue;
                }
                ("mod", [name, next, ..]) if *next == "{" => {
                    self.scope.push((*name).to_owned());
                    ends.push(depth);
                }
                ("{", _) => depth += 1,
                ("}", _) => {
                    depth = depth.saturating_sub(1);
                    if ends.last() == Some(&depth) {
                        ends.pop();
                        self.scope.pop();
                    }
                }
                (kind, [name, ..]) if DEFINES.contains(&kind) && is_word(name) => {
                    into.items.insert((*name).to_owned());
                }
                _ => {}
            }
            let begins = is_word(token) && before != "::" && before != ".";
            if begins && after.first() == Some(&"::") {
                let length = path_length(rest);
                let path: Named =
                    rest.iter().take(length).step_by(2).map(|t| (*t).to_owned()).collect();
                into.paths.extend(self.absolute(&path));
            }
            if is_word(token) {
                *words.entry(token).or_default() += 1;
            }
            before = token;
            rest = after;
        }
        passed_on.retain(|name| !words.contains_key(name.as_str()));
        into.passed_on = passed_on;
    }

    /// A path from the crate's root; none: it leads out of the crate, or says nothing of modules.
    fn absolute(&self, path: &[String]) -> Option<Named> {
        let (first, rest) = path.split_first()?;
        let mut at = self.scope.clone();
        let mut rest = rest;
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
                while let Some((next, after)) = rest.split_first().filter(|(n, _)| *n == "super") {
                    let _ = next;
                    at.pop();
                    rest = after;
                }
            }
            child => {
                at.push(child.to_owned());
                if !self.names.contains(&at.join("::")) {
                    return None;
                }
            }
        }
        at.extend(rest.iter().cloned());
        Some(at)
    }
}

/// Words that are followed by the name of what they define.
const DEFINES: &[&str] =
    &["fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"];

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// How many tokens a path has: words, with `::` between them.
fn path_length(tokens: &[&str]) -> usize {
    let mut length = 1;
    while tokens.get(length) == Some(&"::") && tokens.get(length + 1).is_some_and(|t| is_word(t)) {
        length += 2;
    }
    length
}

/// The paths of a `use`, with the name of each; none for a glob.
fn used(tree: &[&str], prefix: &mut Named, found: &mut Vec<(Named, Option<String>)>) {
    for branch in branches(tree) {
        let length = prefix.len();
        let mut rest = branch;
        while let Some((token, after)) = rest.split_first() {
            match *token {
                "::" => {}
                "{" => {
                    let inner = after.split_last().map_or(after, |(_, inner)| inner);
                    used(inner, prefix, found);
                    break;
                }
                "*" => found.push((prefix.clone(), None)),
                word => {
                    let last = after.first().is_none_or(|t| *t != "::");
                    if !(last && word == "self" && !prefix.is_empty()) {
                        prefix.push(word.to_owned());
                    }
                    if last {
                        let name = match after {
                            ["as", name] => Some((*name).to_owned()),
                            _ => prefix.last().cloned(),
                        };
                        found.push((prefix.clone(), name.or_else(|| Some(String::new()))));
                        break;
                    }
                }
            }
            rest = after;
        }
        prefix.truncate(length);
    }
}

/// The parts of a list, between its outer commas.
fn branches<'t, 's>(tree: &'t [&'s str]) -> Vec<&'t [&'s str]> {
    let mut depth = 0_usize;
    tree.split(|token| {
        match *token {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        *token == "," && depth == 0
    })
    .filter(|branch| !branch.is_empty())
    .collect()
}

/// Which module depends on which.
struct Graph(BTreeMap<Name, BTreeSet<Name>>);

/// Modules that reach each other: `a > b > a`, the first again at the end.
struct Circle(String);

impl Circle {
    fn has(&self, module: &str) -> bool {
        self.0.split(" > ").any(|name| is_in(name, module))
    }
}

/// Whether a module is another one, or in it.
fn is_in(name: &str, module: &str) -> bool {
    name == module || is_within(name, module)
}

impl Graph {
    /// The same between the modules of the root, each with all that is in it.
    fn of_roots(&self) -> Graph {
        let room = |name: &Name| name.split("::").next().unwrap_or_default().to_owned();
        let mut edges: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for (from, to) in &self.0 {
            let from = room(from);
            let to = to.iter().map(room).filter(|to| *to != from);
            edges.entry(from.clone()).or_default().extend(to);
        }
        Graph(edges)
    }

    /// One circle for each set of modules that reach each other, without those that are excused.
    fn circles(&self, excused: &[&str]) -> Vec<Circle> {
        let mut found = Vec::new();
        let mut told: BTreeSet<&Name> = BTreeSet::new();
        for start in self.0.keys() {
            if told.contains(start) || excused.iter().any(|module| is_in(start, module)) {
                continue;
            }
            if let Some(way) = self.way_back(start, excused) {
                told.extend(way.iter().copied());
                let mut names: Vec<&str> = way
                    .into_iter()
                    .map(|name| if name.is_empty() { "crate" } else { name.as_str() })
                    .collect();
                names.extend(names.first().copied());
                found.push(Circle(names.join(" > ")));
            }
        }
        found
    }

    /// The shortest way from a module back to itself.
    fn way_back<'g>(&'g self, start: &'g Name, excused: &[&str]) -> Option<Vec<&'g Name>> {
        let mut from: BTreeMap<&Name, &Name> = BTreeMap::new();
        let mut next = vec![start];
        while !next.is_empty() {
            let mut beyond = Vec::new();
            for at in next {
                for to in self.0.get(at).into_iter().flatten() {
                    if to == start {
                        let mut way = vec![at];
                        while let Some(before) = way.last().and_then(|at| from.get(*at)) {
                            way.push(before);
                        }
                        way.reverse();
                        return Some(way);
                    }
                    let is_excused = excused.iter().any(|module| is_in(to, module));
                    if !is_excused && !from.contains_key(to) {
                        from.insert(to, at);
                        beyond.push(to);
                    }
                }
            }
            next = beyond;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(sources: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = sources
            .iter()
            .map(|(file, source)| {
                let file = Path::new(file);
                (
                    module_of(file).map(|(_, module)| module).unwrap_or_default(),
                    (*source).to_owned(),
                )
            })
            .collect();
        of_crate("x", &sources, &BTreeMap::new())
            .iter()
            .map(|problem| {
                problem.trim_start_matches("crate `x`: modules in a circle: ").to_owned()
            })
            .map(|problem| problem.trim_end_matches("; turn one arrow around").to_owned())
            .collect()
    }

    #[test]
    fn circles_are_found_however_a_module_is_named() {
        for b in [
            "use crate::a::Thing;",
            "use super::a::{self, Thing};",
            "use {std::fmt, crate::{a::Thing as Other}};",
            "fn f() { crate::a::thing(); }",
            "fn f() -> super::a::Thing { todo() }",
            "mod inner { fn f(_: super::super::a::Thing) {} }",
            "use crate::Thing;",
            "use crate::*; fn f(_: Thing) {}",
        ] {
            let a = "use crate::b::f;\nfn g() { f() }\npub struct Thing;\n";
            let lib = "mod a;\nmod b;\npub use a::Thing;\n";
            let found = circles(&[
                ("crates/x/src/lib.rs", lib),
                ("crates/x/src/a.rs", a),
                ("crates/x/src/b.rs", b),
            ]);
            assert_eq!(found, ["a > b > a"], "{b}");
        }
    }

    #[test]
    fn what_is_no_circle_is_none() {
        let found = circles(&[
            ("crates/x/src/lib.rs", "mod a;\nmod b;\npub use b::Thing;\n"),
            (
                "crates/x/src/a/mod.rs",
                "//! See crate::b.\nmod c;\npub(crate) use c::Part;\npub struct Own;\n\
                 #[cfg(test)]\nmod tests {\n use crate::b::Thing;\n}\n",
            ),
            ("crates/x/src/a/c.rs", "use super::Own;\npub struct Part(Own, &'static str);\n"),
            (
                "crates/x/src/b.rs",
                "use crate::a::Part;\npub struct Thing(Part);\nconst S: &str = \"crate::b\";\n",
            ),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_module_and_its_own_may_be_in_a_circle_too() {
        let found = circles(&[
            ("crates/x/src/lib.rs", "mod a;\n"),
            ("crates/x/src/a/mod.rs", "mod c;\npub struct Own;\nfn f() { c::g() }\n"),
            ("crates/x/src/a/c.rs", "use super::Own;\npub fn g() {}\n"),
        ]);
        assert_eq!(found, ["a > a::c > a"]);
    }

    /// Files that reach each other in no circle, in modules that do.
    #[test]
    fn modules_of_the_root_are_compared_as_a_whole() {
        let found = circles(&[
            ("crates/x/src/lib.rs", "mod a;\nmod b;\n"),
            ("crates/x/src/a/mod.rs", "mod one;\nmod two;\n"),
            ("crates/x/src/a/one.rs", "use crate::b::two::F;\n"),
            ("crates/x/src/a/two.rs", "pub struct T;\n"),
            ("crates/x/src/b/mod.rs", "mod one;\nmod two;\n"),
            ("crates/x/src/b/one.rs", "use crate::a::two::T;\n"),
            ("crates/x/src/b/two.rs", "pub struct F;\n"),
        ]);
        assert_eq!(found, ["a > b > a"]);
    }

    #[test]
    fn an_exception_needs_a_reason_and_a_circle() {
        let sources = [
            (vec![], "mod a;\nmod b;\n".to_owned()),
            (vec!["a"], "use crate::b::B;\npub struct A;\n".to_owned()),
            (vec!["b"], "use crate::a::A;\npub struct B;\n".to_owned()),
        ];
        let with = |excused: &[(&'static str, &'static str)]| {
            of_crate("x", &sources, &excused.iter().copied().collect())
        };
        assert_eq!(with(&[("a", "they are one")]), Vec::<String>::new());
        assert_eq!(with(&[("", "it is a sketch")]), Vec::<String>::new());
        assert_eq!(with(&[("a", "")]), ["crate `x`: the exception for `a` has no reason"]);
        let idle = "crate `x`: no circle is in `c` any more";
        assert!(with(&[("c", "?")]).contains(&idle.to_owned()));
    }
}
