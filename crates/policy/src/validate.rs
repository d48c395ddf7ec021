//! Checks that stand between an edit and a revision: parse, schema, references.
