//! What was found, for a person and as JSON.
//!
//! One line a check, then what to do about each fault. Text of the deployment is shortened and its control characters
//! are escaped ([`shown`]): it goes to a terminal.

use std::fmt::Write;

use serde_json::{Value, json};

use super::advice::{Advice, Software};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// It works, but hardly as meant.
    Warning,
    /// Something does not work, for some peers at least.
    Fault,
    /// It could not be looked at; the text says why.
    Skipped,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fault => "fault",
            Verdict::Skipped => "skipped",
        }
    }

    /// The colour of its word, as an SGR sequence (ECMA-48 §8.3.117).
    const fn colour(self) -> &'static str {
        match self {
            Verdict::Ok => "\x1b[32m",
            Verdict::Warning => "\x1b[33m",
            Verdict::Fault => "\x1b[1;31m",
            Verdict::Skipped => "\x1b[2m",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Check {
    /// Stable, for scripts.
    pub(super) id: &'static str,
    pub(super) verdict: Verdict,
    /// What was seen, where.
    pub(super) seen: String,
    /// What to change.
    pub(super) advice: Option<Advice>,
}

impl Check {
    pub(super) fn ok(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Ok, seen: seen.into(), advice: None }
    }

    pub(super) fn skipped(id: &'static str, why: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Skipped, seen: why.into(), advice: None }
    }

    pub(super) fn warning(id: &'static str, seen: impl Into<String>, advice: Advice) -> Self {
        Self { id, verdict: Verdict::Warning, seen: seen.into(), advice: Some(advice) }
    }

    pub(super) fn fault(id: &'static str, seen: impl Into<String>, advice: Advice) -> Self {
        Self { id, verdict: Verdict::Fault, seen: seen.into(), advice: Some(advice) }
    }
}

/// All that was found.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) server_name: String,
    /// Who answers, if it says so.
    pub(super) software: Option<Software>,
    pub(super) checks: Vec<Check>,
}

impl Report {
    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// As a person reads it.
    pub(super) fn text(&self, colours: bool) -> String {
        let proxy = self.software.map_or("a proxy that does not name itself", Software::as_str);
        let mut text = format!("{}, as the outside sees it, behind {proxy}\n\n", self.server_name);
        let widest = self.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
        for check in &self.checks {
            let word = paint(check.verdict, &format!("{:<8}", check.verdict.as_str()), colours);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word} {:<widest$}  {}", check.id, shown(&check.seen));
        }
        let _ = writeln!(text, "\n{}", self.summary());
        for (checks, advice) in self.advices() {
            let mut ids: Vec<_> = checks.iter().map(|check| check.id).collect();
            ids.dedup();
            let word = paint(checks[0].verdict, checks[0].verdict.as_str(), colours);
            let _ = writeln!(text, "\n{word} {}: {}", ids.join(", "), shown(&advice.what));
            for (software, line) in advice.lines_for(self.software) {
                let _ = writeln!(text, "  {:<10} {}", software.as_str(), shown(&line));
            }
        }
        text
    }

    /// Each advice once, with the checks that lead to it; what is broken comes first.
    fn advices(&self) -> Vec<(Vec<&Check>, &Advice)> {
        let mut advices: Vec<(Vec<&Check>, &Advice)> = Vec::new();
        for verdict in [Verdict::Fault, Verdict::Warning] {
            for check in self.checks.iter().filter(|check| check.verdict == verdict) {
                let Some(advice) = &check.advice else { continue };
                match advices.iter_mut().find(|(_, known)| known.what == advice.what) {
                    Some((checks, _)) => checks.push(check),
                    None => advices.push((vec![check], advice)),
                }
            }
        }
        advices
    }

    fn summary(&self) -> String {
        let count = |verdict, one: &str, many: &str| match self.count(verdict) {
            1 => format!("1 {one}"),
            count => format!("{count} {many}"),
        };
        format!(
            "{}, {}, {} skipped, {} ok",
            count(Verdict::Fault, "fault", "faults"),
            count(Verdict::Warning, "warning", "warnings"),
            self.count(Verdict::Skipped),
            self.count(Verdict::Ok)
        )
    }

    /// As a program reads it.
    pub(super) fn json(&self) -> Value {
        let check = |check: &Check| {
            let mut object = json!({ "id": check.id, "verdict": check.verdict.as_str(), "seen": check.seen });
            if let Some(advice) = &check.advice {
                let lines: serde_json::Map<_, _> = advice
                    .lines_for(self.software)
                    .into_iter()
                    .map(|(software, line)| (software.as_str().to_owned(), line.into()))
                    .collect();
                object["advice"] = json!({ "what": advice.what, "lines": lines });
            }
            object
        };
        json!({
            "server_name": self.server_name,
            "proxy": self.software.map(Software::as_str),
            "faults": self.count(Verdict::Fault),
            "warnings": self.count(Verdict::Warning),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }
}

fn paint(verdict: Verdict, word: &str, colours: bool) -> String {
    if colours { format!("{}{word}\x1b[0m", verdict.colour()) } else { word.to_owned() }
}

/// Foreign text, safe for a terminal.
fn shown(text: &str) -> String {
    let escaped = |char: char| match char.is_control() {
        true => char.escape_default().to_string(),
        false => char.into(),
    };
    text.chars().map(escaped).collect()
}

/// The beginning of foreign text: enough to recognise it.
pub(super) fn excerpt(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{:?} and more", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Characters quoted of what somebody sent: about one line of a terminal.
const EXCERPT_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::advice;

    fn report() -> Report {
        let checks = vec![
            Check::ok("dns", "example.com: 192.0.2.1"),
            Check::fault("long-poll", "cut\x1b[31m\nafter 5 s", advice::long_poll()),
        ];
        Report { server_name: "example.com".to_owned(), software: Some(Software::Nginx), checks }
    }

    #[test]
    fn lines_are_aligned_and_foreign_text_stays_in_its_line() {
        let text = report().text(false);
        assert!(text.contains("ok       dns        example.com: 192.0.2.1\n"), "{text}");
        assert!(text.contains("fault    long-poll  cut\\u{1b}[31m\\nafter 5 s\n"), "{text}");
        assert!(text.contains("\n1 fault, 0 warnings, 0 skipped, 1 ok\n"), "{text}");
        assert!(text.contains("  nginx      proxy_read_timeout"), "{text}");
        assert!(
            !text.contains('\x1b') && report().text(true).contains("\x1b[1;31mfault   \x1b[0m"),
            "{text}"
        );
    }

    #[test]
    fn advice_is_for_the_proxy_that_answers_and_for_all_if_none_is_known() {
        let json = report().json();
        let lines = json["checks"][1]["advice"]["lines"].as_object().unwrap();
        assert_eq!(lines.keys().collect::<Vec<_>>(), ["ringfence", "nginx"]);
        let unknown = Report { software: None, ..report() };
        assert!(unknown.text(false).contains("haproxy") && unknown.text(false).contains("apache"));
    }
}
