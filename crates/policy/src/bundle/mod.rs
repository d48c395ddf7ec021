//! The files of `keepgate apply DIR` to and from items. `docs/files.md` describes the files.
//!
//! INVARIANT: `parse(render(service, items))` is `items`, for all items of the service that
//! [`crate::validate`] accepts, save API keys, which are never in files. So applying an export
//! changes nothing.
//!
//! This module reads texts, not files, and checks shapes only: whether policies agree with the
//! schema is for [`crate::validate`].

mod cedar_files;
mod elements;
mod entities;
mod json_files;
mod limits;
mod line;
mod pack;
mod roles;
mod routes;
mod sort;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::line::Lines;
use crate::cedar_text::PolicyError;
use crate::digest::Digest;
use crate::encoded::Encoded;
use crate::model::{Item, ItemBody, ItemKey, Kind, Revision};
use crate::spot::{Span, Spot};
pub(crate) use cedar_files::{MARKER, is_own_file};
pub use pack::{Packed, Packer};
pub use sort::{MAX_DIRECTORIES, is_entities_file, is_ignored, is_path};

use self::sort::Sort;
use crate::route::Route;
use crate::service::ServiceSettings;
use crate::world::{World, WorldError};

/// What the files of a directory say.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// The service's name.
    pub service: String,
    /// Its items, and the roles and memberships it brings to the directory; in key order.
    pub items: Vec<Item>,
    /// Where each item stands.
    pub places: BTreeMap<ItemKey, FileLine>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// The file's name.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The character in it, counted from 1, and how many belong to it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

impl FileLine {
    /// The place in the file of a place within the item's text. An item from JSON has another text
    /// there, so its first line is told.
    #[must_use]
    pub fn within(&self, spot: Option<Spot>) -> FileLine {
        let file = self.file.clone();
        match spot {
            Some(spot) if !file.ends_with(".json") => {
                let Spot { line, span } =
                    spot.behind(self.line, self.span.map_or(1, |own| own.column));
                FileLine { file, line, span }
            }
            _ => FileLine { file, line: self.line, span: None },
        }
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct BundleError {
    /// The file's name.
    pub file: String,
    /// The line, counted from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The character in it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

const SERVICE: &str = "service.toml";
const SCHEMA: &str = "schema.cedarschema";
const ENTITIES: &str = "entities.json";
const ROLES: &str = "roles.toml";
const ROUTES: &str = "routes.toml";
const LIMITS: &str = "limits.toml";
const LINKS: &str = "links.toml";
const OPENAPI: [&str; 3] = ["openapi.json", "openapi.yaml", "openapi.yml"];

/// The file of entities that [`render`] leaves out, as they come in millions.
pub const ENTITIES_FILE: &str = ENTITIES;

/// The file with a service's name and settings.
pub const SERVICE_FILE: &str = SERVICE;

/// What that file has before, between and behind the canonical JSON of its entities.
pub const ENTITIES_LIST: [&str; 3] = ["[\n  ", ",\n  ", "\n]\n"];

/// The most errors that are told; of the others there is a count.
pub const MAX_ERRORS: usize = 1_000;

/// Reads the files of a directory, by name. On failure, what is wrong, at most [`MAX_ERRORS`] of
/// it.
pub fn parse(files: &BTreeMap<String, String>) -> Result<Bundle, Vec<BundleError>> {
    let mut reader = Reader::default();
    reader.service_file(files.get(SERVICE));
    reader.files(files);
    let service = std::mem::take(&mut reader.service);
    let mut bundle = Bundle { service, items: Vec::new(), places: BTreeMap::new() };
    let (found, errors) = reader.finish();
    if !errors.is_empty() {
        return Err(errors);
    }
    for found in found {
        let place = found.place();
        match found.item.decode() {
            Ok(item) => {
                bundle.places.insert(item.key.clone(), place);
                bundle.items.push(item);
            }
            Err(error) => {
                let (file, line) = (place.file, Some(place.line));
                return Err(vec![BundleError {
                    file,
                    line,
                    span: None,
                    message: with_sources(&error),
                }]);
            }
        }
    }
    Ok(bundle)
}

impl Bundle {
    /// The world that has these items and no others, at revision 1: for trying policies out.
    pub fn world(&self) -> Result<World, WorldError> {
        World::from_items(Revision(1), Digest::of_all(&self.items), &self.items)
    }
}

impl Reader {
    /// All files but `service.toml`, whose name is needed first.
    fn files(&mut self, files: &BTreeMap<String, String>) {
        let reader = self;
        let mut routes = routes::Files::default();
        let mut schema_from: Option<&str> = None;
        for (file, text) in files {
            let text = without_mark(text);
            match Sort::of(file, text) {
                Sort::Service | Sort::Ignored => {}
                sort @ (Sort::Schema | Sort::JsonSchema) => {
                    if let Some(other) = schema_from.replace(file) {
                        let message = format!("`{other}` has the schema already; keep one of them");
                        reader.error(file, None, message);
                    } else if sort == Sort::JsonSchema {
                        json_files::parse_schema(reader, file, text);
                    } else {
                        let body = crate::model::SchemaBody { text: text.to_owned() };
                        reader.put(file, 1, Item::new(&reader.service, "", ItemBody::Schema(body)));
                    }
                }
                Sort::Entities => entities::parse(reader, file, text),
                Sort::Roles => roles::parse_roles(reader, text),
                Sort::Links => roles::parse_links(reader, text),
                Sort::Limits => limits::parse(reader, text),
                Sort::Routes => routes.own = Some(text),
                Sort::OpenApi => routes.document(reader, file, text),
                Sort::Policies => cedar_files::parse(reader, file, text),
                Sort::JsonPolicies => json_files::parse_policies(reader, file, text),
                Sort::JsonLinks => json_files::parse_links(reader, file, text),
                Sort::Request if reader.ignored.len() < MAX_ERRORS => {
                    reader.ignored.push(file.clone());
                }
                Sort::Request => {}
                Sort::Astray => {
                    let message = "this file belongs to the top of the directory; move it there";
                    reader.error(file, None, message);
                }
                Sort::NoPath => {
                    let message = format!(
                        "expected a path of at most {MAX_DIRECTORIES} directories and a name, divided \
                         by `/`, without `.` and `..`"
                    );
                    reader.error(file, None, message);
                }
                Sort::Unknown => reader.error(file, None, unknown_file()),
            }
        }
        json_files::settle(reader);
        routes.settle(reader);
    }
}

/// Writes the items of a service as files. Items of other services, and what others brought to
/// the directory, are left out.
pub fn render(service: &str, items: &[Item]) -> BTreeMap<String, String> {
    let mut own: Vec<&Item> = items
        .iter()
        .filter(|item| match &item.body {
            ItemBody::Role(role) => role.source == service,
            ItemBody::Member(member) => member.source == service,
            ItemBody::Key(_) => false,
            _ => item.key.service == service,
        })
        .collect();
    own.sort_by(|a, b| a.key.cmp(&b.key));

    let mut files = BTreeMap::new();
    let mut routes: Vec<&Route> = Vec::new();
    for item in &own {
        match &item.body {
            ItemBody::Service(settings) => {
                files.insert(SERVICE.to_owned(), toml_text(settings.as_ref()));
            }
            ItemBody::Schema(schema) => {
                files.insert(SCHEMA.to_owned(), schema.text.clone());
            }
            ItemBody::Route(route) => routes.push(route),
            _ => {}
        }
    }
    if !routes.is_empty() {
        files.insert(ROUTES.to_owned(), toml_text(&RoutesOut { route: routes }));
    }
    files.extend(entities::render(&own).map(|text| (ENTITIES.to_owned(), text)));
    files.extend(roles::render_roles(&own).map(|text| (ROLES.to_owned(), text)));
    files.extend(roles::render_links(&own).map(|text| (LINKS.to_owned(), text)));
    files.extend(limits::render(&own).map(|text| (LIMITS.to_owned(), text)));
    files.extend(cedar_files::render(&own));
    files
}

/// A text without the byte order mark that some editors begin it with.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn unknown_file() -> String {
    format!(
        "not a file of a service; known are {SERVICE}, *.cedarschema, *.cedarschema.json, *.cedar, \
         *.cedar.json, *{ENTITIES}, {ROLES}, {LINKS}, {ROUTES}, openapi.json, openapi.yaml, {LIMITS}, \
         and JSON that is a schema, policies, entities or linked templates in Cedar's format"
    )
}

/// Collects items and errors.
#[derive(Default)]
struct Reader {
    service: String,
    found: Vec<Found>,
    /// The file of the last item that was found.
    file: Arc<str>,
    errors: Vec<BundleError>,
    /// Errors beyond [`MAX_ERRORS`].
    untold: usize,
    /// Files that are nothing to apply.
    ignored: Vec<String>,
    /// The ids of the policies of each `*.cedar`, as they stand there.
    order: BTreeMap<String, Vec<String>>,
    /// Links that wait for all templates to be known.
    pending: Vec<json_files::Pending>,
}

/// An item and where it stands.
struct Found {
    item: Arc<Encoded>,
    file: Arc<str>,
    line: u32,
    column: u32,
}

impl Found {
    fn place(&self) -> FileLine {
        let span = Some(Span { column: self.column as usize, length: 0 });
        FileLine { file: self.file.to_string(), line: self.line as usize, span }
    }
}

#[derive(Serialize)]
struct RoutesOut<'a> {
    route: Vec<&'a Route>,
}

impl Reader {
    fn error(&mut self, file: &str, line: Option<usize>, message: impl Into<String>) {
        self.error_at(file, line, None, message);
    }

    fn error_at(
        &mut self,
        file: &str,
        line: Option<usize>,
        span: Option<Span>,
        message: impl Into<String>,
    ) {
        if self.errors.len() < MAX_ERRORS {
            let (file, message) = (file.to_owned(), message.into());
            self.errors.push(BundleError { file, line, span, message });
        } else {
            self.untold += 1;
        }
    }

    /// The errors of a text that begins at this line and character of the file.
    fn text_errors(&mut self, file: &str, (line, column): (usize, usize), error: PolicyError) {
        for (spot, message) in error.all() {
            let spot = spot.map_or(Spot::line(line), |spot| spot.behind(line, column));
            self.error_at(file, Some(spot.line), spot.span, message);
        }
    }

    fn count_errors(&self) -> usize {
        self.errors.len() + self.untold
    }

    fn put(&mut self, file: &str, line: usize, item: Item) {
        self.put_at(file, (line, 1), item);
    }

    fn put_at(&mut self, file: &str, (line, column): (usize, usize), item: Item) {
        if let Err(error) = item.check_key() {
            // A service without a readable `service.toml` has no name; that is said already.
            if !self.service.is_empty() {
                self.error(file, Some(line), error.to_string());
            }
            return;
        }
        if *self.file != *file {
            self.file = file.into();
        }
        self.found.push(Found {
            item: Arc::new(Encoded::of(&item)),
            file: Arc::clone(&self.file),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        });
    }

    /// What was found, in key order, and what is wrong with it.
    fn finish(mut self) -> (Vec<Found>, Vec<BundleError>) {
        let mut found = std::mem::take(&mut self.found);
        // Stable: of two items of one key the one that came first is named as such.
        found.sort_by(|a, b| a.item.key.cmp(&b.item.key));
        let mut first: Option<&Found> = None;
        for again in &found {
            match first {
                Some(first) if first.item.key == again.item.key => {
                    let key = ItemKey { service: String::new(), ..again.item.key.clone() };
                    let message = format!("{key} is in {}:{} already", first.file, first.line);
                    self.error(&again.file, Some(again.line as usize), message);
                }
                _ => first = Some(again),
            }
        }
        if self.untold > 0
            && let Some(last) = self.errors.last()
        {
            let message = format!("{} more errors are not shown", self.untold);
            self.errors.push(BundleError {
                file: last.file.clone(),
                line: None,
                span: None,
                message,
            });
        }
        (found, self.errors)
    }

    fn service_file(&mut self, text: Option<&String>) {
        let Some(text) = text else {
            self.error(SERVICE, None, "the file is missing; it needs at least `name = \"..\"`");
            return;
        };
        let text = without_mark(text);
        match toml::from_str::<ServiceSettings>(text) {
            Ok(settings) => {
                self.service.clone_from(&settings.name);
                let item = Item::new(&self.service, "", ItemBody::Service(Box::new(settings)));
                self.put(SERVICE, 1, item);
            }
            Err(error) => self.toml_error(SERVICE, text, &error),
        }
    }

    fn toml_error(&mut self, file: &str, text: &str, error: &toml::de::Error) {
        let line = error.span().map(|span| Lines::of(text).at(span.start));
        self.error(file, line, error.message());
    }
}

/// An error and its causes in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(error.to_string().lines().next().unwrap_or_default());
        source = error.source();
    }
    text
}

/// A value of the model as TOML.
fn toml_text<T: Serialize>(value: &T) -> String {
    #[expect(clippy::expect_used, reason = "the model has text keys and numbers within TOML's")]
    toml::to_string(value).expect("the model is TOML")
}

/// The kinds of items that files hold, for those who compare a directory with a store.
pub fn is_in_files(kind: Kind) -> bool {
    kind != Kind::Key
}
