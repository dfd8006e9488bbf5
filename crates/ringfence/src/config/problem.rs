//! What is wrong with a configuration, and where: every fault, each with its place and what to do.

use std::{
    error::Error,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

/// A place in the config file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    /// Where faults of the whole file are told: what is missing has no place of its own.
    pub(crate) const FILE: Place = Place { line: 1, column: 1 };

    /// The place of a byte offset.
    pub(crate) fn of(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    /// What is wrong; what to do.
    pub(crate) message: String,
}

/// Every fault of one file, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
}

impl Problems {
    /// Sorts them by place. There is at least one.
    pub(crate) fn new(file: &Path, mut list: Vec<Problem>) -> Self {
        debug_assert!(!list.is_empty());
        list.sort_by_key(|problem| problem.place);
        Self { file: file.to_owned(), list }
    }

    /// One fault that has no place of its own.
    pub(crate) fn of_file(file: &Path, message: String) -> Self {
        Self::new(file, vec![Problem { place: Place::FILE, message }])
    }

    /// Both, in the order of their places.
    pub(crate) fn and(self, other: Problems) -> Self {
        Self::new(&self.file, [self.list, other.list].concat())
    }
}

/// One line each: `FILE:LINE:COLUMN: what is wrong; what to do`.
impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { place, message }) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let file = self.file.display();
            write!(formatter, "{separator}{file}:{}:{}: ", place.line, place.column)?;
            // Text of the file may stand in it: no control character of it splits the line or reaches the terminal.
            for char in message.chars() {
                match char.is_control() {
                    true => write!(formatter, "{}", char.escape_default())?,
                    false => formatter.write_char(char)?,
                }
            }
        }
        Ok(())
    }
}

impl Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "a\nbü = 1\n\nx";
        for (offset, line, column) in
            [(0, 1, 1), (1, 1, 2), (2, 2, 1), (5, 2, 3), (10, 3, 1), (11, 4, 1), (99, 4, 2)]
        {
            assert_eq!(Place::of(text, offset), Place { line, column }, "offset {offset}");
        }
    }

    #[test]
    fn text_of_the_file_stays_in_its_line() {
        let message = "unknown key `k\u{1b}[31m\nforged:2:2: y`; é".to_owned();
        let problems = Problems::new(Path::new("a.toml"), vec![Problem { place: Place::FILE, message }]);
        assert_eq!(problems.to_string(), "a.toml:1:1: unknown key `k\\u{1b}[31m\\nforged:2:2: y`; é");
    }

    #[test]
    fn problems_are_told_in_the_order_of_the_file() {
        let problem =
            |line, message: &str| Problem { place: Place { line, column: 1 }, message: message.to_owned() };
        let problems = Problems::new(Path::new("a.toml"), vec![problem(7, "b; c"), problem(2, "a; b")]);
        assert_eq!(problems.to_string(), "a.toml:2:1: a; b\na.toml:7:1: b; c");
    }
}
