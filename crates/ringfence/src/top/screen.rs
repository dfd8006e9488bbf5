//! Readings of `/status` as lines of text. Pure.
//!
//! Figures are of the last ten seconds, the table of the last minute; with one reading alone both are of the whole time since
//! the start.

use serde_json::{Map, Value, json};

/// What there is to show.
pub(super) struct Look<'a> {
    /// Of one process, the newest last.
    pub(super) readings: &'a [&'a Value],
    pub(super) note: Option<&'a str>,
    /// Room in a line, in characters.
    pub(super) columns: usize,
    /// Whether some of it may be bold.
    pub(super) styled: bool,
}

/// Readings of which the figures are made: ten seconds.
const BRIEF: usize = 5;

/// The whole screen, line by line.
pub(super) fn screen(look: &Look<'_>) -> Vec<String> {
    let Some(now) = look.readings.last() else { return Vec::new() };
    let start = beginning(now);
    let before = |readings: usize| match look.readings.len() {
        1 => &start,
        count => look.readings[count.saturating_sub(1 + readings)],
    };
    let (brief, long) = (Span { now, before: before(BRIEF) }, Span { now, before: before(usize::MAX >> 1) });
    let mut out = Out { lines: Vec::new(), columns: look.columns, styled: look.styled };
    out.bold(&title(now));
    out.line(&figures(&brief));
    out.line(look.note.unwrap_or(if look.readings.len() == 1 { "numbers since the start" } else { "" }));
    classes(&mut out, &long);
    servers(&mut out, now);
    others(&mut out, now);
    out.lines
}

/// The reading at the start of the process: as long ago as it runs, and nothing counted.
fn beginning(now: &Value) -> Value {
    fn zero(value: &Value) -> Value {
        match value {
            Value::Number(_) => json!(0),
            Value::Array(values) => values.iter().map(zero).collect(),
            Value::Object(values) => {
                values.iter().map(|(key, value)| (key.clone(), zero(value))).collect::<Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }
    let mut start = zero(now);
    start["now"] = now["started"].clone();
    start
}

struct Out {
    lines: Vec<String>,
    columns: usize,
    styled: bool,
}

impl Out {
    fn line(&mut self, line: &str) {
        self.lines.push(line.chars().filter(|char| !char.is_control()).take(self.columns).collect());
    }

    fn bold(&mut self, line: &str) {
        self.line(line);
        if let Some(line) = self.lines.last_mut().filter(|_| self.styled) {
            *line = format!("\x1b[1m{line}\x1b[0m");
        }
    }
}

/// Two readings of one process.
struct Span<'a> {
    now: &'a Value,
    before: &'a Value,
}

impl Span<'_> {
    /// What was counted in between, for each second.
    fn rate(&self, of: impl Fn(&Value) -> f64) -> f64 {
        let seconds = number(&self.now["now"]) - number(&self.before["now"]);
        if seconds > 0.0 { ((of(self.now) - of(self.before)) / seconds).max(0.0) } else { 0.0 }
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn title(now: &Value) -> String {
    format!(
        "ringfence {}  {}  up {}  generation {}  pid {}",
        text(&now["version"]),
        text(&now["state"]),
        duration(number(&now["now"]) - number(&now["started"])),
        now["generation"],
        now["pid"],
    )
}

fn figures(span: &Span<'_>) -> String {
    let requests = span.rate(|status| number(&status["requests"]));
    let own = span.rate(|status| number(&status["errors"]["own"]));
    let passed = span.rate(|status| number(&status["errors"]["upstream"]));
    let cpu =
        span.rate(|status| items(&status["workers"]).map(|worker| number(&worker["cpu_seconds"])).sum());
    format!(
        "requests {}/s  errors {} ({} own, {} passed on /s)  connections {} of {}  CPU {}  memory {}",
        rate(requests),
        share(own + passed, requests),
        rate(own),
        rate(passed),
        count(number(&span.now["connections"]["open"])),
        count(number(&span.now["connections"]["max"])),
        percent(100.0 * cpu),
        bytes(number(&span.now["resident_bytes"])),
    )
}

fn classes(out: &mut Out, span: &Span<'_>) {
    out.line("");
    out.bold(&format!(
        "{:<16}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "class", "req/s", "p50", "p99", "up p50", "up p99", "4xx", "5xx", "in/s", "out/s", "in all"
    ));
    let ends: Vec<f64> = items(&span.now["bucket_ends_ms"]).map(number).collect();
    for (index, class) in items(&span.now["classes"]).enumerate() {
        let of = |path: [&str; 2]| {
            let value = move |status: &Value| match path {
                [key, ""] => number(&status["classes"][index][key]),
                [key, inner] => number(&status["classes"][index][key][inner]),
            };
            span.rate(value)
        };
        let time = |part: &str, share: f64| {
            let buckets = |status: &Value| {
                items(&status["classes"][index][part]["buckets"]).map(number).collect::<Vec<_>>()
            };
            let inside: Vec<f64> = buckets(span.now)
                .iter()
                .zip(buckets(span.before))
                .map(|(now, before)| now - before)
                .collect();
            quantile(share, &ends, &inside).map_or("-".to_owned(), milliseconds)
        };
        let requests = of(["requests", ""]);
        out.line(&format!(
            "{:<16}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            text(&class["class"]),
            rate(requests),
            time("total", 0.5),
            time("total", 0.99),
            time("upstream", 0.5),
            time("upstream", 0.99),
            share(of(["status", "4xx"]), requests),
            share(of(["status", "5xx"]), requests),
            bytes(of(["bytes_in", ""])),
            bytes(of(["bytes_out", ""])),
            count(number(&class["requests"])),
        ));
    }
}

fn servers(out: &mut Out, now: &Value) {
    out.line("");
    out.bold(&format!(
        "{:<42}{:>9}{:>11}{:>7}{:>14}{:>10}",
        "upstream server", "state", "in flight", "idle", "failed dials", "ejected"
    ));
    for server in items(&now["upstreams"]).flat_map(|upstream| items(&upstream["servers"])) {
        let (state, why) = state(server, number(&now["now"]));
        out.line(&format!(
            "{:<42}{:>9}{:>11}{:>7}{:>14}{:>10}{why}",
            text(&server["server"]),
            state,
            count(number(&server["in_flight"])),
            count(number(&server["idle"])),
            count(number(&server["dials_failed"])),
            count(number(&server["ejections"])),
        ));
    }
    let waiting: f64 = items(&now["upstreams"]).map(|upstream| number(&upstream["queued"])).sum();
    if waiting > 0.0 {
        out.bold(&format!("{} requests wait for a server to have room", count(waiting)));
    }
}

/// Whether a server gets requests, and why not since when.
fn state(server: &Value, now: f64) -> (&'static str, String) {
    let health = &server["health"];
    if health["up"] == false {
        let since = duration(now - number(&health["since"]));
        return ("down", format!("  {}, for {since}", text(&health["why"])));
    }
    (if server["up"] == true { "up" } else { "ejected" }, String::new())
}

/// Certificates, refusals, what went wrong: what there is of each.
fn others(out: &mut Out, now: &Value) {
    out.line("");
    for certificate in items(&now["certificates"]) {
        let names: Vec<&str> = items(&certificate["names"]).map(text).collect();
        let (days, soon) = (number(&certificate["days_left"]), number(&certificate["days_left"]) < WARN_DAYS);
        let line = format!("certificate {}: {} days left", names.join(", "), days.floor());
        if soon { out.bold(&format!("{line}: ends soon")) } else { out.line(&line) }
    }
    let refusals = now["refusals"].as_object().into_iter().flatten();
    let refusals: Vec<String> = refusals
        .filter(|(_, times)| number(times) > 0.0)
        .map(|(reason, times)| format!("{reason} {}", count(number(times))))
        .collect();
    if !refusals.is_empty() {
        out.line(&format!("refused since the start: {}", refusals.join(", ")));
    }
    for (what, value) in [
        ("panics", &now["panics"]),
        ("reloads refused", &now["reloads"]["refused"]),
        ("certificates refused", &now["certificate_swaps"]["refused"]),
        ("upgrades failed", &now["upgrades_failed"]),
        ("access log lines dropped", &now["log_lines_dropped"]),
    ] {
        if number(value) > 0.0 {
            out.bold(&format!("{what}: {value}"));
        }
    }
    for line in items(&now["recent"]).take(RECENT_MAX) {
        out.line(&format!("{} {}", text(&line["level"]), text(&line["message"])));
    }
}

/// Certificates with fewer days left stand out: as the log warns.
const WARN_DAYS: f64 = 14.0;

/// Lines of the log that are shown: what fits below the rest on a usual screen.
const RECENT_MAX: usize = 5;

/// The quantile of what fell into buckets, straight through the bucket in which it lies; `None` of nothing.
fn quantile(share: f64, ends: &[f64], inside: &[f64]) -> Option<f64> {
    let all: f64 = inside.iter().sum();
    let mut rank = share * all;
    for (index, count) in inside.iter().enumerate() {
        if *count > 0.0 && *count >= rank {
            let from = if index == 0 { 0.0 } else { ends[index - 1] };
            return Some(ends.get(index).map_or(f64::INFINITY, |end| from + (end - from) * rank / count));
        }
        rank -= count;
    }
    None
}

fn rate(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..0.095 => format!("{value:.2}"),
        ..9.95 => format!("{value:.1}"),
        _ => count(value),
    }
}

fn count(value: f64) -> String {
    match value {
        ..9_999.5 => format!("{value:.0}"),
        ..999_950.0 => format!("{:.1}k", value / 1e3),
        ..999_950_000.0 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.1}G", value / 1e9),
    }
}

fn bytes(value: f64) -> String {
    match value {
        ..1.0 => "0".to_owned(),
        ..999.5 => format!("{value:.0} B"),
        ..999_500.0 => format!("{:.0} kB", value / 1e3),
        ..999_500_000.0 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

fn milliseconds(value: f64) -> String {
    match value {
        ..9.95 => format!("{value:.1} ms"),
        ..999.5 => format!("{value:.0} ms"),
        f64::INFINITY => "> 60 s".to_owned(),
        _ => format!("{:.1} s", value / 1e3),
    }
}

fn percent(value: f64) -> String {
    match value {
        0.0 => "0 %".to_owned(),
        ..9.95 => format!("{value:.1} %"),
        _ => format!("{value:.0} %"),
    }
}

fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 { percent((100.0 * part / whole).min(100.0)) } else { "-".to_owned() }
}

fn duration(seconds: f64) -> String {
    let (days, hours, minutes) = (seconds / 86_400.0, seconds / 3600.0 % 24.0, seconds / 60.0 % 60.0);
    match seconds {
        86_400.0.. => format!("{} d {} h", days.floor(), hours.floor()),
        3600.0.. => format!("{} h {} min", hours.floor(), minutes.floor()),
        60.0.. => format!("{} min", minutes.floor()),
        _ => format!("{} s", seconds.floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(now: f64, requests: u64) -> Value {
        json!({
            "version": "0.1.0", "state": "serving", "generation": 2, "pid": 7, "now": now, "started": 1000.0,
            "requests": requests, "errors": {"own": 0, "upstream": requests / 10},
            "connections": {"open": 3, "max": 65536}, "resident_bytes": 20_000_000,
            "workers": [{"cpu_seconds": now / 10.0}], "bucket_ends_ms": [1.0, 10.0, 100.0],
            "classes": [{"class": "sync", "requests": requests, "status": {"2xx": requests, "5xx": requests / 10},
                "bytes_in": 0, "bytes_out": requests * 100, "total": {"buckets": [0, requests, 0, 0]},
                "upstream": {"buckets": [requests, 0, 0, 0]}}],
            "upstreams": [{"servers": [{"server": "127.0.0.1:8008", "up": false, "idle": 1, "in_flight": 2, "dials_failed": 3,
                "ejections": 1}], "requests_max": 2, "queued": 4}],
            "certificates": [{"names": ["a", "b"], "days_left": 9.5}], "refusals": {"Unrouted": 4, "BadGateway": 0},
            "panics": 0, "reloads": {"done": 1, "refused": 0}, "certificate_swaps": {"refused": 0}, "upgrades_failed": 0,
            "log_lines_dropped": 0, "recent": [{"level": "WARN", "message": "x\u{1b}[2Jy"}],
        })
    }

    fn shown(readings: &[&Value], columns: usize) -> String {
        screen(&Look { readings, note: None, columns, styled: false }).join("\n")
    }

    #[test]
    fn numbers_are_what_was_counted_between_readings() {
        let shown = shown(&[&reading(1100.0, 50), &reading(1110.0, 150)], 200);
        assert!(shown.contains("requests 10/s  errors 10 % (0 own, 1.0 passed on /s)"), "{shown}");
        assert!(
            shown.contains("CPU 10 %  memory 20.0 MB") && shown.contains("connections 3 of 65.5k"),
            "{shown}"
        );
        let sync = shown.lines().find(|line| line.starts_with("sync")).unwrap();
        let cells: Vec<&str> = sync.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            ["sync", "10", "5.5 ms", "9.9 ms", "0.5 ms", "1.0 ms", "0 %", "10 %", "0", "1 kB", "150"]
        );
    }

    #[test]
    fn one_reading_is_of_the_time_since_the_start() {
        let shown = shown(&[&reading(1100.0, 50)], 200);
        assert!(shown.contains("requests 0.5/s") && shown.contains("numbers since the start"), "{shown}");
        assert!(shown.contains("refused since the start: Unrouted 4"), "{shown}");
        assert!(shown.contains("certificate a, b: 9 days left: ends soon"), "{shown}");
    }

    #[test]
    fn servers_that_are_ejected_and_requests_that_wait_are_shown() {
        let shown = shown(&[&reading(1100.0, 50)], 200);
        let server = shown.lines().find(|line| line.starts_with("127.0.0.1:8008")).unwrap();
        assert_eq!(
            server.split_whitespace().collect::<Vec<_>>(),
            ["127.0.0.1:8008", "ejected", "2", "1", "3", "1"]
        );
        assert!(shown.contains("4 requests wait for a server to have room"), "{shown}");
    }

    #[test]
    fn a_server_that_is_down_is_told_with_the_reason() {
        let mut reading = reading(1100.0, 50);
        assert!(shown(&[&reading], 200).contains("  ejected  "));
        reading["upstreams"][0]["servers"][0]["health"] =
            json!({"up": false, "why": "status 500", "since": 1000.0});
        let shown = shown(&[&reading], 200);
        assert!(shown.contains("  down  ") && shown.contains("  status 500, for 1 min"), "{shown}");
    }

    #[test]
    fn lines_fit_and_carry_no_control_characters() {
        let shown = shown(&[&reading(1100.0, 50)], 40);
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let ends = [1.0, 10.0, 100.0];
        assert_eq!(quantile(0.5, &ends, &[0.0, 0.0, 0.0, 0.0]), None);
        assert_eq!(quantile(0.5, &ends, &[2.0, 0.0, 0.0, 0.0]), Some(0.5));
        assert_eq!(quantile(0.99, &ends, &[98.0, 0.0, 2.0, 0.0]), Some(55.0));
        assert_eq!(quantile(0.99, &ends, &[0.0, 0.0, 0.0, 5.0]), Some(f64::INFINITY));
    }
}
