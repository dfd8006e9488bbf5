//! Reads values out of a parsed TOML table and notes every fault on the way.
//!
//! A deserializer stops at the first fault. Here each read returns what can be used and notes what cannot, so
//! that one run of `ringfence check` tells everything. Which keys a table may have is said when it is opened.

use std::{cell::RefCell, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    limits::Bound,
    problem::{Place, Problem},
    schema::{Schema, Value},
    units,
};

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// The text being read, and the faults found so far.
pub(crate) struct Reader<'a> {
    text: &'a str,
    /// Every table that there is: a key in the wrong one is told where it belongs.
    schemas: &'static [Schema],
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str, schemas: &'static [Schema]) -> Self {
        Self { text, schemas, problems: RefCell::default() }
    }

    /// Notes a fault: what is wrong; what to do.
    pub(crate) fn note(&self, place: Place, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { place, message: message.into() });
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn place(&self, offset: usize) -> Place {
        Place::of(self.text, offset)
    }
}

/// A table being read.
pub(crate) struct Table<'a> {
    reader: &'a Reader<'a>,
    schema: &'static Schema,
    entries: Option<&'a DeTable<'a>>,
    /// Where what is missing is told.
    pub(crate) place: Place,
}

/// A value that is given in short or in full.
pub(crate) enum Entry<'a> {
    Text(At<&'a str>),
    Table(Table<'a>),
}

impl<'a> Table<'a> {
    /// Opens the table of the whole file, where keys unknown to `schema` are noted.
    pub(crate) fn root(reader: &'a Reader<'a>, schema: &'static Schema, entries: &'a DeTable<'a>) -> Self {
        Self { reader, schema, entries: Some(entries), place: Place::FILE }.checked()
    }

    /// The one table `[key]`; empty where the file has none.
    pub(crate) fn child(&self, key: &str, schema: &'static Schema) -> Self {
        let absent = Self { reader: self.reader, schema, entries: None, place: Place::FILE };
        let Some(found) = self.entry(key) else { return absent };
        match found.get_ref() {
            DeValue::Table(entries) => self.open(schema, entries, found),
            other => {
                self.note_kind(
                    key,
                    found,
                    other,
                    &format!("write {} once, with its keys below", schema.heading),
                );
                absent
            }
        }
    }

    /// The tables `[[key]]`, in their order.
    pub(crate) fn children(&self, key: &str, schema: &'static Schema) -> Vec<Self> {
        let Some(found) = self.entry(key) else { return Vec::new() };
        let advice = format!("write {} with double brackets, once for each", schema.heading);
        let DeValue::Array(elements) = found.get_ref() else {
            self.note_kind(key, found, found.get_ref(), &advice);
            return Vec::new();
        };
        let open = |element: &'a Spanned<DeValue<'a>>| match element.get_ref() {
            DeValue::Table(entries) => Some(self.open(schema, entries, element)),
            other => {
                self.note_kind(key, element, other, &advice);
                None
            }
        };
        elements.iter().filter_map(open).collect()
    }

    fn open(&self, schema: &'static Schema, entries: &'a DeTable<'a>, value: &Spanned<DeValue<'_>>) -> Self {
        let place = self.reader.place(value.span().start);
        Self { reader: self.reader, schema, entries: Some(entries), place }.checked()
    }

    /// Notes every key that is not in the schema.
    fn checked(self) -> Self {
        for (key, value) in self.entries.into_iter().flat_map(DeTable::iter) {
            if self.schema.key(key.get_ref()).is_none() {
                self.note(self.reader.place(key.span().start), self.unknown(key.get_ref(), value.get_ref()));
            }
        }
        self
    }

    /// What to say of an unknown key: where it belongs, or which known one is nearest.
    fn unknown(&self, key: &str, value: &DeValue<'_>) -> String {
        let what = match value {
            DeValue::Table(_) => format!("unknown table [{key}]"),
            DeValue::Array(elements) if elements.iter().any(|element| element.get_ref().is_table()) => {
                format!("unknown table [[{key}]]")
            }
            _ => format!("unknown key `{key}` in {}", self.schema.heading),
        };
        if let Some(home) = self.reader.schemas.iter().find(|schema| schema.key(key).is_some()) {
            return format!("{what}; it belongs to {}", home.heading);
        }
        let similarity = |known: &&str| strsim::jaro_winkler(key, known);
        let nearest = self
            .schema
            .keys
            .iter()
            .map(|known| known.name)
            .max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        format!("{what}; the nearest known one is `{}`", nearest.unwrap_or_default())
    }

    /// Notes a fault that the caller found.
    pub(crate) fn note(&self, place: Place, message: impl Into<String>) {
        self.reader.note(place, message);
    }

    /// Whether the key is there, with whatever value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// As a person writes it.
    pub(crate) fn heading(&self) -> &'static str {
        self.schema.heading
    }

    /// Where the value of a key stands, or the table if it has none.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        self.entry(key).map_or(self.place, |found| self.reader.place(found.span().start))
    }

    /// Whether the value of a key is `[]`.
    pub(crate) fn is_empty_list(&self, key: &str) -> bool {
        self.entry(key).and_then(|found| found.get_ref().as_array()).is_some_and(|list| list.is_empty())
    }

    /// A string.
    pub(crate) fn string(&self, key: &str) -> Option<At<&'a str>> {
        let found = self.entry(key)?;
        let text = self.as_string(key, found)?;
        Some(At { value: text, place: self.reader.place(found.span().start) })
    }

    /// A string that has to be there; `advice` says what to write.
    pub(crate) fn required_string(&self, key: &str, advice: &str) -> Option<At<&'a str>> {
        if !self.has(key) {
            self.note(self.place, format!("{} has no `{key}`; {advice}", self.schema.heading));
        }
        self.string(key)
    }

    /// A list of strings; empty where there is none.
    pub(crate) fn strings(&self, key: &str) -> Vec<At<&'a str>> {
        let Some(found) = self.entry(key) else { return Vec::new() };
        let DeValue::Array(elements) = found.get_ref() else {
            self.note_kind(key, found, found.get_ref(), "write a list of strings, as in [\"a\", \"b\"]");
            return Vec::new();
        };
        let string = |element: &'a Spanned<DeValue<'a>>| {
            let value = self.as_string(key, element)?;
            Some(At { value, place: self.reader.place(element.span().start) })
        };
        elements.iter().filter_map(string).collect()
    }

    /// A string or a table, or a list of them.
    pub(crate) fn entries(&self, key: &str, schema: &'static Schema) -> Vec<Entry<'a>> {
        let Some(found) = self.entry(key) else { return Vec::new() };
        let entry = |element: &'a Spanned<DeValue<'a>>| match element.get_ref() {
            DeValue::Table(entries) => Some(Entry::Table(self.open(schema, entries, element))),
            _ => {
                let value = self.as_string(key, element)?;
                Some(Entry::Text(At { value, place: self.reader.place(element.span().start) }))
            }
        };
        match found.get_ref() {
            DeValue::Array(elements) => elements.iter().filter_map(entry).collect(),
            _ => entry(found).into_iter().collect(),
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, key: &str) -> Option<At<bool>> {
        let found = self.entry(key)?;
        match found.get_ref() {
            DeValue::Boolean(value) => {
                Some(At { value: *value, place: self.reader.place(found.span().start) })
            }
            other => {
                self.note_kind(key, found, other, "write true or false, without quotes");
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<At<T>> {
        let At { value: text, place } = self.string(key)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.note(place, format!("`{key}` is {text:?}; write {}", known.join(" or ")));
        }
        found.map(|(_, value)| At { value: *value, place })
    }

    /// A whole number within its bounds; the default where it is absent or wrong.
    pub(crate) fn count(&self, key: &str, bound: &Bound<u64>) -> u64 {
        debug_assert!(matches!(self.described(key), Some(Value::Count(known)) if known == bound), "{key}");
        let Some(found) = self.entry(key) else { return bound.default };
        match integer(found.get_ref()) {
            Some(value) => self.within(key, found, value, bound, |value| value.to_string()),
            None => {
                let advice = format!("write a whole number from {} to {}", bound.min, bound.max);
                self.note_kind(key, found, found.get_ref(), &advice);
                bound.default
            }
        }
    }

    /// A size in bytes within its bounds; the default where it is absent or wrong.
    pub(crate) fn size(&self, key: &str, bound: &Bound<u64>) -> u64 {
        self.optional_size(key, bound).unwrap_or(bound.default)
    }

    /// A size in bytes within its bounds, if the key is there.
    pub(crate) fn optional_size(&self, key: &str, bound: &Bound<u64>) -> Option<u64> {
        debug_assert!(
            matches!(self.described(key), Some(Value::Size(known) | Value::OptionalSize { bound: known, .. }) if known == bound),
            "{key}"
        );
        let found = self.entry(key)?;
        let bytes = match found.get_ref() {
            DeValue::String(text) => units::parse_size(text),
            other => integer(other),
        };
        match bytes {
            Some(bytes) => Some(self.within(key, found, bytes, bound, units::format_size)),
            None => {
                let advice =
                    "write a number of bytes, or a whole number with B, KiB, MiB or GiB, as in \"50 MiB\"";
                self.note_value(key, found, advice);
                None
            }
        }
    }

    /// A duration within its bounds; the default where it is absent or wrong.
    pub(crate) fn duration(&self, key: &str, bound: &Bound<Duration>) -> Duration {
        debug_assert!(matches!(self.described(key), Some(Value::Duration(known)) if known == bound), "{key}");
        let Some(found) = self.entry(key) else { return bound.default };
        match found.get_ref().as_str().and_then(units::parse_duration) {
            Some(value) => self.within(key, found, value, bound, units::format_duration),
            None => {
                self.note_value(key, found, "write a whole number with ms, s, min or h, as in \"30s\"");
                bound.default
            }
        }
    }

    fn within<T: Copy + PartialOrd>(
        &self,
        key: &str,
        found: &Spanned<DeValue<'_>>,
        value: T,
        bound: &Bound<T>,
        format: impl Fn(T) -> String,
    ) -> T {
        if range(bound).contains(&value) {
            return value;
        }
        let [value, min, max] = [value, bound.min, bound.max].map(format);
        let message = format!("`{key}` is {value}; it may be from {min} to {max}");
        self.note(self.reader.place(found.span().start), message);
        bound.default
    }

    /// What the schema says of a key: its description has to tell the bounds by which it is read.
    fn described(&self, key: &str) -> Option<Value> {
        self.schema.key(key).map(|key| key.value)
    }

    fn entry(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.schema.key(key).is_some(),
            "{key} is missing in the schema of {}",
            self.schema.heading
        );
        self.entries?.get(key)
    }

    fn as_string(&self, key: &str, found: &'a Spanned<DeValue<'a>>) -> Option<&'a str> {
        let text = found.get_ref().as_str();
        if text.is_none() {
            self.note_kind(key, found, found.get_ref(), "write a string in quotes");
        }
        text
    }

    /// A value of the wrong kind.
    fn note_kind(&self, key: &str, found: &Spanned<DeValue<'_>>, value: &DeValue<'_>, advice: &str) {
        let message = format!("`{key}` is {}; {advice}", kind(value));
        self.note(self.reader.place(found.span().start), message);
    }

    /// A value of the right kind perhaps, that cannot be read.
    fn note_value(&self, key: &str, found: &Spanned<DeValue<'_>>, advice: &str) {
        match found.get_ref() {
            DeValue::String(text) => {
                self.note(self.reader.place(found.span().start), format!("`{key}` is {text:?}; {advice}"));
            }
            other => self.note_kind(key, found, other, advice),
        }
    }
}

fn range<T: Copy>(bound: &Bound<T>) -> RangeInclusive<T> {
    bound.min..=bound.max
}

/// The value of an integer that is not negative.
fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(integer) => format!("the number {integer}"),
        DeValue::Float(_) => "a number with a fraction".to_owned(),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
