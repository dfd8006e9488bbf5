//! Command lines of the programs in `src/bin`. What none of them knows is refused with the usage, instead of being ignored:
//! whoever asks for help does not mean a whole run.

use std::fmt::Display;
use std::str::FromStr;

/// What a command line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    usage: &'static str,
    options: Vec<(String, String)>,
    /// What stands outside of options.
    pub names: Vec<String>,
}

impl Arguments {
    /// This process's: `flags` stand alone, `options` are followed by a value, and names may stand where `usage` tells of
    /// them (in brackets, as `[NAME…]`). Ends the process with the usage and 2 where there is something else.
    #[must_use]
    pub fn read(usage: &'static str, flags: &[&str], options: &[&str]) -> Arguments {
        Arguments::parse(usage, flags, options, std::env::args().skip(1))
            .unwrap_or_else(|fault| refuse(usage, fault))
    }

    fn parse(
        usage: &'static str,
        flags: &[&str],
        options: &[&str],
        mut words: impl Iterator<Item = String>,
    ) -> Result<Arguments, String> {
        let mut arguments = Arguments { usage, ..Arguments::default() };
        while let Some(word) = words.next() {
            if flags.contains(&word.as_str()) {
                arguments.options.push((word, String::new()));
            } else if options.contains(&word.as_str()) {
                let value = words.next().ok_or_else(|| format!("{word} takes a value"))?;
                arguments.options.push((word, value));
            } else if word.starts_with('-') || !usage.contains('…') {
                return Err(format!("{word:?} is not known"));
            } else {
                arguments.names.push(word);
            }
        }
        Ok(arguments)
    }

    /// Ends the process with this and the usage, and 2.
    pub fn refuse(&self, fault: impl Display) -> ! {
        refuse(self.usage, fault)
    }

    /// Whether this flag is there.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.options.iter().any(|(name, _)| name == flag)
    }

    /// The value of an option. Ends the process with the usage and 2 where it is none of its kind.
    #[must_use]
    pub fn value<T: FromStr>(&self, option: &str) -> Option<T> {
        let (_, value) = self.options.iter().rev().find(|(name, _)| name == option)?;
        let refused = |_| refuse(self.usage, format!("{option} does not take {value:?}"));
        Some(value.parse().unwrap_or_else(refused))
    }
}

#[expect(clippy::disallowed_methods, reason = "a command line is read before there is anything to drop")]
fn refuse(usage: &str, fault: impl Display) -> ! {
    eprintln!("{fault}\nusage: {usage}");
    std::process::exit(USAGE);
}

/// The exit status of a command line that is not understood, as a shell's.
const USAGE: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(usage: &'static str, line: &str) -> Result<Arguments, String> {
        Arguments::parse(usage, &["--quick"], &["--seed"], line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_and_names_are_told_apart() {
        let arguments = parse("x [NAME…]", "--seed 1 a --quick --seed 2 b").unwrap();
        assert_eq!((arguments.has("--quick"), arguments.value("--seed")), (true, Some(2)));
        assert_eq!(arguments.names, ["a", "b"]);
        let arguments = parse("x", "").unwrap();
        assert_eq!((arguments.has("--quick"), arguments.value::<u64>("--seed")), (false, None));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in ["--help", "-h", "--seed", "a", "--quick --quickly"] {
            assert!(parse("x", line).is_err(), "{line}");
        }
        assert!(parse("x [NAME…]", "--help").is_err());
    }
}
