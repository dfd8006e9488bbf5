//! Sizes and durations as people write them.

use std::time::Duration;

/// Bytes in a kibibyte.
pub(crate) const KIB: u64 = 1024;
/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1024 * KIB;
/// Bytes in a gibibyte.
pub(crate) const GIB: u64 = 1024 * MIB;

/// Units of sizes, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

/// Units of durations in milliseconds, largest first.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a size such as `50 MiB` or `512 B`, in bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS)
}

/// Reads a duration such as `500ms` or `5min`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Writes a size in the largest unit that keeps it whole.
pub(crate) fn format_size(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS, " ")
}

/// Writes a duration in the largest unit that keeps it whole.
pub(crate) fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS, "")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|found: char| !found.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn format(amount: u64, units: &[(&str, u64)], separator: &str) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount >= *factor && amount.is_multiple_of(*factor);
    let (name, factor) = units.iter().find(fits).unwrap_or(&units[units.len() - 1]);
    format!("{}{separator}{name}", amount / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("50 MiB", 50 * MIB), ("64 KiB", 65_536), ("2 GiB", 2 * GIB), ("100 B", 100), ("0 B", 0)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(parse_size("50MiB"), Some(50 * MIB));
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("1h", 3_600_000), ("1500ms", 1500)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse_duration("2 s"), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_has_no_unit_or_an_unknown_one_is_refused() {
        for text in [
            "",
            "50",
            "MiB",
            "50 MB",
            "50 mib",
            "-1 KiB",
            "1.5 GiB",
            "50 MiB ",
            "99999999999 GiB",
            "\u{0665} KiB",
        ] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
        for text in ["", "30", "s", "30 sec", "5m", "1h30min", "-1s", "1.5s", "30s "] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }
}
