//! The time of day as text, made once a second.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
};

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use nix::time::{ClockId, clock_gettime};

/// Spells the present for `Date` fields and for the access log.
#[derive(Default)]
pub(crate) struct Calendar {
    second: Cell<i64>,
    http_date: RefCell<String>,
    log_second: RefCell<String>,
    combined_second: RefCell<String>,
}

impl Calendar {
    /// Hands the present to `use_it` as an IMF-fixdate (RFC 9110 §5.6.7).
    pub(crate) fn http_date<R>(&self, use_it: impl FnOnce(&str) -> R) -> R {
        self.refresh();
        use_it(&self.http_date.borrow())
    }

    /// Appends the present as RFC 3339 in UTC with milliseconds.
    pub(crate) fn write_log_time(&self, out: &mut Vec<u8>) {
        let millisecond = self.refresh();
        out.extend_from_slice(self.log_second.borrow().as_bytes());
        let digits = [millisecond / 100, millisecond / 10 % 10, millisecond % 10];
        out.push(b'.');
        out.extend(digits.map(|digit| b'0' + u8::try_from(digit).unwrap_or(0)));
        out.push(b'Z');
    }

    /// Appends the present as web servers' logs have it: `10/Oct/2000:13:55:36 +0000`.
    pub(crate) fn write_combined_time(&self, out: &mut Vec<u8>) {
        self.refresh();
        out.extend_from_slice(self.combined_second.borrow().as_bytes());
    }

    /// Brings the texts up to the present second; returns the milliseconds since it began.
    fn refresh(&self) -> i32 {
        let now = present();
        if now.as_second() != self.second.replace(now.as_second()) || self.http_date.borrow().is_empty() {
            // Into the same memory each time.
            let (mut log_second, mut http_date) = (self.log_second.borrow_mut(), self.http_date.borrow_mut());
            let mut combined_second = self.combined_second.borrow_mut();
            log_second.clear();
            combined_second.clear();
            http_date.clear();
            let _ = write!(log_second, "{}", now.strftime("%Y-%m-%dT%H:%M:%S"));
            let _ = write!(combined_second, "{}", now.strftime("%d/%b/%Y:%H:%M:%S +0000"));
            // Fails for years beyond 9999 only; then there is no Date to send.
            let _ = DateTimePrinter::new().print_timestamp_rfc9110(&now, &mut *http_date);
        }
        now.subsec_millisecond()
    }
}

/// The time of day to within some milliseconds, read for a fraction of what the exact one costs.
fn present() -> Timestamp {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
        .ok()
        .and_then(|time| Timestamp::new(time.tv_sec(), i32::try_from(time.tv_nsec()).ok()?).ok())
        .unwrap_or_else(Timestamp::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_fixed_forms() {
        let calendar = Calendar::default();
        calendar.http_date(|date| {
            assert_eq!(date.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");
            assert!(date.ends_with(" GMT"), "{date}");
        });
        let mut text = Vec::new();
        calendar.write_log_time(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.len(), "1994-11-06T08:49:37.123Z".len(), "{text}");
        assert!(text.parse::<Timestamp>().is_ok(), "{text}");
        let mut combined = Vec::new();
        calendar.write_combined_time(&mut combined);
        let combined = String::from_utf8(combined).unwrap();
        assert_eq!(combined.len(), "10/Oct/2000:13:55:36 +0000".len(), "{combined}");
        assert!(Timestamp::strptime("%d/%b/%Y:%H:%M:%S %z", &combined).is_ok(), "{combined}");
    }
}
