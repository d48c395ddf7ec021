//! The files of a service as encoded items, read piece by piece: what a center does with an
//! `apply` of a million entities. It holds the items and never the text of `entities.json`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::{BundleError, FileLine, Found, Reader, SERVICE, entities};
use crate::encoded::Encoded;
use crate::model::ItemKey;

/// Takes the files of a service in any order.
pub struct Packer {
    reader: Reader,
    named: String,
    files: BTreeMap<String, String>,
}

/// What the files say.
pub struct Packed {
    /// In key order; each key once where there are no errors.
    found: Vec<Found>,
    errors: Vec<BundleError>,
    ignored: Vec<String>,
}

impl Packer {
    /// For the files of the service of this name; `service.toml` must say the same.
    pub fn new(service: &str) -> Packer {
        let reader = Reader { service: service.to_owned(), ..Reader::default() };
        Packer { reader, named: service.to_owned(), files: BTreeMap::new() }
    }

    /// Takes a file. One of the same name before it is replaced.
    pub fn file(&mut self, name: String, text: String) {
        self.files.insert(name, text);
    }

    /// Reads a file of entities (see [`super::is_entities_file`]) as it comes; `told` hears the number of items now and then and
    /// ends the reading by answering false.
    ///
    /// # Errors
    /// Those of the reader. What is wrong with the text is kept for [`Packer::finish`].
    pub fn entities(
        &mut self,
        file: &str,
        text: impl Read,
        told: impl FnMut(usize) -> bool,
    ) -> io::Result<()> {
        entities::read(&mut self.reader, file, text, told)
    }

    /// What the files say, and what is wrong with them.
    pub fn finish(self) -> Packed {
        let Packer { mut reader, named, files } = self;
        reader.service_file(files.get(SERVICE));
        if !reader.service.is_empty() && reader.service != named {
            let message = format!("it names service `{}`, the request `{named}`", reader.service);
            reader.error(SERVICE, None, message);
            return Packed { found: Vec::new(), errors: reader.errors, ignored: Vec::new() };
        }
        if reader.service.is_empty() {
            // The files that can be read are looked at all the same.
            reader.service = named;
        }
        reader.files(&files);
        let ignored = std::mem::take(&mut reader.ignored);
        let (found, errors) = reader.finish();
        Packed { found, errors, ignored }
    }
}

impl Packed {
    /// What is wrong with the files: nothing of them may land unless this is empty.
    pub fn errors(&self) -> &[BundleError] {
        &self.errors
    }

    /// Files that are nothing to apply, such as requests; at most [`super::MAX_ERRORS`].
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The items in key order.
    pub fn items(&self) -> impl Iterator<Item = &Arc<Encoded>> {
        self.found.iter().map(|found| &found.item)
    }

    /// The item of this key.
    pub fn find(&self, key: &ItemKey) -> Option<&Arc<Encoded>> {
        self.at(key).map(|found| &found.item)
    }

    /// Where the item of this key stands.
    pub fn place(&self, key: &ItemKey) -> Option<FileLine> {
        self.at(key).map(Found::place)
    }

    fn at(&self, key: &ItemKey) -> Option<&Found> {
        let at = self.found.binary_search_by(|found| found.item.key.cmp(key)).ok()?;
        self.found.get(at)
    }
}
