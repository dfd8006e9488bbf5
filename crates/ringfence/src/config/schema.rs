//! Which keys a config file may have, and what is told of each.
//!
//! A [`Schema`] is the one place where a table's keys stand: the reader refuses what is not in it, and
//! `docs/config.md` is written from it (see [`super::reference`]). So a key cannot be added without its description.

use std::time::Duration;

use super::{
    limits::Bound,
    units::{format_duration, format_size},
};

/// A kind of table in a config file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema {
    /// As a person writes it: `[limits]`, `[[homeserver]]`.
    pub(crate) heading: &'static str,
    /// What the table is about: one or two sentences in Markdown.
    pub(crate) about: &'static str,
    /// Every key that it may have.
    pub(crate) keys: &'static [Key],
}

impl Schema {
    /// The description of a key, if the table may have it.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
    /// What it is for, with the reason for its default: sentences in Markdown.
    pub(crate) about: &'static str,
}

/// What may be written behind the equals sign.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// A table, which has a schema of its own.
    Table,
    /// Something that is read as `form` says; `default` is what holds without it.
    Text { form: &'static str, default: &'static str },
    /// A whole number.
    Count(&'static Bound<u64>),
    /// Bytes.
    Size(&'static Bound<u64>),
    /// Bytes; without it, `default` says what holds.
    OptionalSize { bound: &'static Bound<u64>, default: &'static str },
    /// A time.
    Duration(&'static Bound<Duration>),
}

/// The default of a key that has to be there.
pub(crate) const REQUIRED: &str = "required";

impl Key {
    pub(crate) const fn table(name: &'static str) -> Self {
        Self { name, value: Value::Table, about: "" }
    }

    /// `default` is a TOML value where there is one (a test compares it with what the code does), otherwise prose.
    pub(crate) const fn text(
        name: &'static str,
        form: &'static str,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Self { name, value: Value::Text { form, default }, about }
    }

    pub(crate) const fn count(name: &'static str, bound: &'static Bound<u64>) -> Self {
        Self { name, value: Value::Count(bound), about: bound.about }
    }

    pub(crate) const fn size(name: &'static str, bound: &'static Bound<u64>) -> Self {
        Self { name, value: Value::Size(bound), about: bound.about }
    }

    pub(crate) const fn optional_size(
        name: &'static str,
        bound: &'static Bound<u64>,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Self { name, value: Value::OptionalSize { bound, default }, about }
    }

    pub(crate) const fn duration(name: &'static str, bound: &'static Bound<Duration>) -> Self {
        Self { name, value: Value::Duration(bound), about: bound.about }
    }
}

impl Value {
    /// What kind of value it is, with its unit.
    pub(crate) fn form(&self) -> &'static str {
        match self {
            Value::Table => "table",
            Value::Text { form, .. } => form,
            Value::Count(_) => "whole number",
            Value::Size(_) | Value::OptionalSize { .. } => "size",
            Value::Duration(_) => "duration",
        }
    }

    /// What holds where the key is absent: a TOML value, or prose.
    pub(crate) fn default(&self) -> String {
        match self {
            Value::Table => String::new(),
            Value::Text { default, .. } | Value::OptionalSize { default, .. } => (*default).to_owned(),
            Value::Count(bound) => bound.default.to_string(),
            Value::Size(bound) => quoted(format_size(bound.default)),
            Value::Duration(bound) => quoted(format_duration(bound.default)),
        }
    }

    /// The least and the greatest value that is accepted.
    pub(crate) fn range(&self) -> Option<(String, String)> {
        match self {
            Value::Table | Value::Text { .. } => None,
            Value::Count(bound) => Some((bound.min.to_string(), bound.max.to_string())),
            Value::Size(bound) | Value::OptionalSize { bound, .. } => {
                Some((format_size(bound.min), format_size(bound.max)))
            }
            Value::Duration(bound) => Some((format_duration(bound.min), format_duration(bound.max))),
        }
    }
}

fn quoted(text: String) -> String {
    format!("\"{text}\"")
}
