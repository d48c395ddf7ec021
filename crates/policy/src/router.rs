//! From a request's method and path to its route.
//!
//! The path is the request's normal form, without query, as it will be forwarded; it is compared
//! segment by segment, still percent-encoded, so `%2F` never becomes a separator. Only the values
//! of parameters are decoded, once, when they become the id of a resource.
//!
//! The most specific route wins, decided from left to right: literal text before a mixture, a
//! mixture before a whole parameter, that before `{*rest}`, that before `{/*rest}` (OpenAPI 3.1
//! section 4.8.8.2 asks for the first step; the rest follows it). Where the most specific template does not have the method,
//! less specific ones are asked; a route of that very method goes before one with `*`. `HEAD`
//! without a route of its own is the `GET` route. Only if no template that matches has the method
//! is the answer [`Matched::MethodNotAllowed`].
//!
//! With [`PathsFold::Case`] literal text is compared without case; [`Match::spelled`] then has the
//! route's spelling of it, while the values of parameters stay as they came.
//!
//! Cost: each node of the tree is visited at most once for one path, whatever the path.

use std::borrow::Cow;
use std::sync::Arc;

use crate::route::{MAX_ROUTES, Route, RouteError, Segment};
use crate::service::PathsFold;
use crate::uid::Uid;

/// The routes of a service, ready to be matched.
#[derive(Clone, Debug)]
pub struct Router {
    routes: Arc<[Route]>,
    compiled: Vec<Compiled>,
    /// Node 0 is the root. INVARIANT: indices within point to existing nodes and routes.
    nodes: Vec<Node>,
    /// INVARIANT: with [`PathsFold::Case`] the literal texts in `nodes` are folded.
    fold: PathsFold,
}

#[derive(Clone, Debug)]
struct Compiled {
    params: Vec<Box<str>>,
    /// The template's, where requests may be spelled in another way; else empty.
    segments: Vec<Segment>,
    /// None where the request's method is the action.
    action: Option<Uid>,
    resource: Resource,
}

#[derive(Clone, Debug)]
enum Resource {
    Fixed(Uid),
    /// The type, and the parameter's place among the values.
    Param(String, usize),
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Sorted by text.
    literals: Vec<(Box<str>, usize)>,
    /// Most specific first: more literal text before less.
    mixed: Vec<(Mixture, usize)>,
    param: Option<usize>,
    rest: Leaf,
    end: Leaf,
    /// Routes that take this path and all below.
    tree: Leaf,
}

/// The routes that end at a node, by method.
type Leaf = Vec<(Box<str>, usize)>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mixture {
    head: Box<str>,
    /// The text after each parameter.
    tails: Vec<Box<str>>,
}

/// What a method and a path lead to.
#[derive(Clone, Debug, PartialEq)]
pub enum Matched<'r, 'p> {
    /// A route.
    Found(Match<'r, 'p>),
    /// Templates match the path, but none of them has the method; these they have, sorted.
    MethodNotAllowed(Vec<&'r str>),
    /// No template matches.
    NotFound,
}

/// A route and the values of its parameters.
#[derive(Clone, Debug)]
pub struct Match<'r, 'p> {
    router: &'r Router,
    /// Which of the router's routes.
    pub index: usize,
    /// The parameters' values in the template's order, still percent-encoded.
    pub values: Vec<&'p str>,
    method: &'p str,
}

/// A parameter's value that is no text once it is decoded: the caller's 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` in the path is not UTF-8 once it is percent-decoded")]
pub struct ParamError {
    /// The value as it came.
    pub value: String,
}

impl Router {
    /// A router of these routes; refuses what [`Route::check`] refuses, and conflicts.
    pub fn new(routes: impl Into<Arc<[Route]>>) -> Result<Router, RouteError> {
        Router::folding(routes, PathsFold::None)
    }

    /// The same for an upstream to which paths are alike that differ in their bytes; then routes
    /// conflict too that are alike.
    pub fn folding(routes: impl Into<Arc<[Route]>>, fold: PathsFold) -> Result<Router, RouteError> {
        let routes: Arc<[Route]> = routes.into();
        if routes.len() > MAX_ROUTES {
            return Err(RouteError::TooMany(routes.len()));
        }
        let mut router = Router {
            routes: Arc::clone(&routes),
            compiled: Vec::with_capacity(routes.len()),
            nodes: vec![Node::default()],
            fold,
        };
        for (index, route) in routes.iter().enumerate() {
            let template = route.check()?;
            let first = router.insert(&route.method, index, template.segments.as_slice());
            if let Some(first) = first.and_then(|first| routes.get(first)) {
                return Err(RouteError::Conflict { first: first.name(), second: route.name() });
            }
            let params: Vec<Box<str>> = template.params().map(Box::from).collect();
            let resource = route.resource.as_ref().and_then(|rule| {
                let place = params.iter().position(|name| **name == *rule.param)?;
                Some(Resource::Param(rule.kind.clone(), place))
            });
            router.compiled.push(Compiled {
                action: (route.action.is_some() || route.method != "*")
                    .then(|| route.action(&route.method)),
                resource: resource
                    .unwrap_or_else(|| Resource::Fixed(Uid::route(route.resource_path()))),
                params,
                segments: match fold {
                    PathsFold::None => Vec::new(),
                    PathsFold::Case => template.segments,
                },
            });
        }
        Ok(router)
    }

    fn empty(fold: PathsFold) -> Router {
        Router { routes: Arc::new([]), compiled: Vec::new(), nodes: vec![Node::default()], fold }
    }

    /// The routes, in the order given.
    pub fn routes(&self) -> &Arc<[Route]> {
        &self.routes
    }

    /// In what paths are alike to it.
    pub fn fold(&self) -> PathsFold {
        self.fold
    }

    /// The action and the resource of a route, as far as they are the same for all of its requests.
    pub fn fixed(&self, index: usize) -> (Option<&Uid>, Option<&Uid>) {
        let Some(compiled) = self.compiled.get(index) else { return (None, None) };
        let resource = match &compiled.resource {
            Resource::Fixed(uid) => Some(uid),
            Resource::Param(..) => None,
        };
        (compiled.action.as_ref(), resource)
    }

    /// The route of a request; `path` is its normal form, without the query.
    pub fn matched<'r, 'p>(&'r self, method: &'p str, path: &'p str) -> Matched<'r, 'p> {
        let Some(rest) = path.strip_prefix('/') else {
            return Matched::NotFound;
        };
        let mut search = Search { router: self, method, values: Vec::new(), others: Vec::new() };
        if let Some(index) = search.node(0, Some(rest)) {
            return Matched::Found(Match { router: self, index, values: search.values, method });
        }
        if search.others.is_empty() {
            return Matched::NotFound;
        }
        let leaves = search.others.into_iter().flatten();
        let mut methods: Vec<&str> = leaves.map(|(method, _)| &**method).collect();
        methods.sort_unstable();
        methods.dedup();
        Matched::MethodNotAllowed(methods)
    }

    /// Adds a route; returns the one that is in its place already.
    fn insert(&mut self, method: &str, route: usize, segments: &[Segment]) -> Option<usize> {
        let mut at = 0;
        let fold = self.fold;
        let (mut is_rest, mut is_tree) = (false, false);
        for segment in segments {
            let new = self.nodes.len();
            let node = self.nodes.get_mut(at)?;
            at = match segment {
                Segment::Literal(text) => {
                    let text = folded(fold, text);
                    match node.literals.binary_search_by(|(have, _)| (**have).cmp(&text)) {
                        Ok(found) => node.literals.get(found)?.1,
                        Err(place) => {
                            node.literals.insert(place, (text.as_ref().into(), new));
                            new
                        }
                    }
                }
                Segment::Mixed { head, params } => {
                    let mixture = Mixture {
                        head: folded_ascii(fold, head).as_ref().into(),
                        tails: params
                            .iter()
                            .map(|(_, tail)| folded_ascii(fold, tail).as_ref().into())
                            .collect(),
                    };
                    match node.mixed.iter().find(|(have, _)| *have == mixture) {
                        Some((_, found)) => *found,
                        None => {
                            node.mixed.push((mixture, new));
                            node.mixed.sort_by(|(a, _), (b, _)| a.specificity(b));
                            new
                        }
                    }
                }
                Segment::Param(_) => *node.param.get_or_insert(new),
                Segment::Rest(_) => {
                    is_rest = true;
                    at
                }
                Segment::Tree(_) => {
                    is_tree = true;
                    at
                }
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        let node = self.nodes.get_mut(at)?;
        let leaf = match (is_rest, is_tree) {
            (true, _) => &mut node.rest,
            (_, true) => &mut node.tree,
            _ => &mut node.end,
        };
        match leaf.iter().find(|(have, _)| **have == *method) {
            Some((_, first)) => Some(*first),
            None => {
                leaf.push((method.into(), route));
                None
            }
        }
    }
}

/// The pairs of routes that match the same requests, by their places: the one that came first, and the
/// other one. Routes that cannot be used alone are left out.
pub fn conflicts(routes: &[Route], fold: PathsFold) -> Vec<(usize, usize)> {
    let mut router = Router::empty(fold);
    let mut pairs = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let Ok(template) = route.check() else { continue };
        let first = router.insert(&route.method, index, template.segments.as_slice());
        pairs.extend(first.map(|first| (first, index)));
    }
    pairs
}

struct Search<'r, 'p> {
    router: &'r Router,
    method: &'p str,
    values: Vec<&'p str>,
    /// Leaves that match the path but not the method.
    others: Vec<&'r Leaf>,
}

impl<'r, 'p> Search<'r, 'p> {
    /// `rest`: what is left after the slash that led here; none at the path's end.
    fn node(&mut self, at: usize, rest: Option<&'p str>) -> Option<usize> {
        let node = self.router.nodes.get(at)?;
        let Some(rest) = rest else {
            return self.leaf(&node.end).or_else(|| self.tree(node, ""));
        };
        let (segment, below) = match rest.split_once('/') {
            Some((segment, below)) => (segment, Some(below)),
            None => (rest, None),
        };
        let fold = self.router.fold;
        let spelled = folded(fold, segment);
        if let Ok(found) = node.literals.binary_search_by(|(text, _)| (**text).cmp(&spelled))
            && let Some((_, next)) = node.literals.get(found)
            && let Some(route) = self.node(*next, below)
        {
            return Some(route);
        }
        let held = self.values.len();
        for (mixture, next) in &node.mixed {
            if mixture.values(segment, fold, &mut self.values)
                && let Some(route) = self.node(*next, below)
            {
                return Some(route);
            }
            self.values.truncate(held);
        }
        if let Some(next) = node.param
            && !segment.is_empty()
        {
            self.values.push(segment);
            if let Some(route) = self.node(next, below) {
                return Some(route);
            }
            self.values.truncate(held);
        }
        if let Some(route) = self.leaf(&node.rest) {
            self.values.push(rest);
            return Some(route);
        }
        self.tree(node, rest)
    }

    fn tree(&mut self, node: &'r Node, rest: &'p str) -> Option<usize> {
        let route = self.leaf(&node.tree)?;
        self.values.push(rest);
        Some(route)
    }

    fn leaf(&mut self, leaf: &'r Leaf) -> Option<usize> {
        if leaf.is_empty() {
            return None;
        }
        let with = |method: &str| leaf.iter().find(|(have, _)| **have == *method);
        let found = with(self.method)
            .or_else(|| if self.method == "HEAD" { with("GET") } else { None })
            .or_else(|| with("*"));
        match found {
            Some((_, route)) => Some(*route),
            None => {
                self.others.push(leaf);
                None
            }
        }
    }
}

impl Mixture {
    fn literal_bytes(&self) -> usize {
        self.head.len() + self.tails.iter().map(|tail| tail.len()).sum::<usize>()
    }

    /// More literal text is more specific; the rest only makes the order total.
    fn specificity(&self, other: &Mixture) -> std::cmp::Ordering {
        (other.literal_bytes(), &self.head, &self.tails).cmp(&(
            self.literal_bytes(),
            &other.head,
            &other.tails,
        ))
    }

    /// Appends the parameters' values if the segment matches; otherwise what it appended is
    /// without meaning.
    fn values<'p>(&self, segment: &'p str, fold: PathsFold, values: &mut Vec<&'p str>) -> bool {
        // As long as the segment, byte by byte, so that places in one are places in the other.
        let spelled = folded_ascii(fold, segment);
        let Some(after_head) = spelled.strip_prefix(&*self.head) else {
            return false;
        };
        let mut at = spelled.len() - after_head.len();
        let Some((last, inner)) = self.tails.split_last() else {
            return false;
        };
        for tail in inner {
            // At least one character belongs to the parameter.
            let Some(first) = spelled.get(at..).and_then(|rest| rest.chars().next()) else {
                return false;
            };
            let from = at + first.len_utf8();
            let Some(found) = spelled.get(from..).and_then(|rest| rest.find(&**tail)) else {
                return false;
            };
            let Some(value) = segment.get(at..from + found) else {
                return false;
            };
            values.push(value);
            at = from + found + tail.len();
        }
        let rest = spelled.get(at..).and_then(|rest| rest.strip_suffix(&**last));
        match rest.and_then(|rest| segment.get(at..at + rest.len())) {
            Some(value) if !value.is_empty() => {
                values.push(value);
                true
            }
            _ => false,
        }
    }
}

impl<'r> Match<'r, '_> {
    /// The route.
    pub fn route(&self) -> Option<&'r Route> {
        self.router.routes.get(self.index)
    }

    /// The value of a parameter as it came, still percent-encoded; none if there is no such
    /// parameter.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let place = self.compiled()?.params.iter().position(|have| **have == *name)?;
        self.values.get(place).copied()
    }

    /// The request's path with the route's spelling of literal text; the path itself where nothing
    /// folds.
    pub fn spelled<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let Some(compiled) = self.compiled().filter(|c| !c.segments.is_empty()) else {
            return Cow::Borrowed(path);
        };
        let mut out = String::with_capacity(path.len());
        let mut values = self.values.iter().copied();
        let mut next = || values.next().unwrap_or_default();
        for segment in &compiled.segments {
            match segment {
                // It takes the path as far as it goes: whether there is a slash is for the path.
                Segment::Tree(_) => {
                    let value = next();
                    if !value.is_empty() || (path.ends_with('/') && out != "/") {
                        out.push('/');
                        out.push_str(value);
                    }
                    continue;
                }
                _ => out.push('/'),
            }
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Param(_) | Segment::Rest(_) => out.push_str(next()),
                Segment::Mixed { head, params } => {
                    out.push_str(head);
                    for (_, tail) in params {
                        out.push_str(next());
                        out.push_str(tail);
                    }
                }
                Segment::Tree(_) => {}
            }
        }
        if out == path { Cow::Borrowed(path) } else { Cow::Owned(out) }
    }

    /// The action to decide on.
    pub fn action(&self) -> Cow<'r, Uid> {
        match self.compiled().and_then(|compiled| compiled.action.as_ref()) {
            Some(action) => Cow::Borrowed(action),
            None => Cow::Owned(Uid::new("Action", self.method)),
        }
    }

    /// The resource to decide on.
    pub fn resource(&self) -> Result<Cow<'r, Uid>, ParamError> {
        match self.compiled().map(|compiled| &compiled.resource) {
            Some(Resource::Fixed(uid)) => Ok(Cow::Borrowed(uid)),
            Some(Resource::Param(kind, place)) => {
                let value = self.values.get(*place).copied().unwrap_or_default();
                let id = decoded(value)?;
                Ok(Cow::Owned(Uid::new(kind, id)))
            }
            None => Ok(Cow::Owned(Uid::route("/"))),
        }
    }

    fn compiled(&self) -> Option<&'r Compiled> {
        self.router.compiled.get(self.index)
    }
}

impl PartialEq for Match<'_, '_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.router, other.router)
            && (self.index, &self.values) == (other.index, &other.values)
    }
}

/// What two spellings of a segment have in common: ASCII without case, other characters (percent-
/// encoded in a normal form) in lower case. A character beyond ASCII is never one of ASCII (the
/// Kelvin sign is no `k`), as in the frameworks that fold.
fn folded(fold: PathsFold, segment: &str) -> Cow<'_, str> {
    match fold {
        PathsFold::None => Cow::Borrowed(segment),
        PathsFold::Case if !segment.contains('%') => folded_ascii(fold, segment),
        PathsFold::Case => {
            let Ok(text) = decoded(segment) else { return folded_ascii(fold, segment) };
            let mut out = String::with_capacity(segment.len());
            for c in text.chars() {
                let mut lower = c.to_lowercase();
                match (lower.next(), lower.next()) {
                    (Some(one), None) if one.is_ascii() == c.is_ascii() => out.push(one),
                    _ => out.push(c),
                }
            }
            // What is decoded must not look like what was never encoded.
            out.push('%');
            Cow::Owned(out)
        }
    }
}

/// The same for text whose length may not change.
fn folded_ascii(fold: PathsFold, text: &str) -> Cow<'_, str> {
    match fold {
        PathsFold::Case if text.bytes().any(|b| b.is_ascii_uppercase()) => {
            Cow::Owned(text.to_ascii_lowercase())
        }
        _ => Cow::Borrowed(text),
    }
}

/// Percent-decodes once. A `%` without two digits (it does not occur in a normal form) and what is
/// no UTF-8 then are refused, so that no two paths become the same id unnoticed.
pub fn decoded(value: &str) -> Result<Cow<'_, str>, ParamError> {
    if !value.contains('%') {
        return Ok(Cow::Borrowed(value));
    }
    let error = || ParamError { value: value.to_owned() };
    let bytes = decoded_with(value.as_bytes(), b'%').ok_or_else(error)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| error())
}

/// Percent-decodes with another mark than `%`; none if a mark is not followed by two digits.
pub(crate) fn decoded_with(value: &[u8], mark: u8) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != mark {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (&high, after) = after.split_first()?;
        let (&low, after) = after.split_first()?;
        bytes.push(hex(high)? << 4 | hex(low)?);
        rest = after;
    }
    Some(bytes)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
