//! Faults planted where operators make them, found by `ringfence doctor` and `ringfence explain`.
//!
//! [`deployments`] has sound configurations of real proxies and the lines that are changed in them; [`files`] has faults of
//! ringfence's own file. A fault counts as found when the checks that tell it, and no others, say so, and the advice names
//! the line to change.
//!
//! Usage: `planted-faults [NAME…]`. The last line is `N passed, N failed`; the exit status tells the same.
#![forbid(unsafe_code)]

mod deployments;
mod files;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use ringfence_tests::arguments::Arguments;

/// Something to find, or a control in which nothing is.
pub(crate) struct Case {
    /// What is wrong, and where.
    pub(crate) name: String,
    /// Plants it and looks for it.
    pub(crate) look: Box<dyn Fn() -> Result<Finding, String> + Send + Sync>,
}

/// What was found.
pub(crate) struct Finding {
    /// By which checks.
    pub(crate) by: String,
    /// Which line is to be changed.
    pub(crate) advice: String,
}

fn main() -> ExitCode {
    let names = Arguments::read("tests/planted-faults [NAME…]", &[], &[]).names;
    let is_wanted = |case: &Case| names.is_empty() || names.iter().any(|name| case.name.contains(name));
    let cases: Vec<Case> = deployments::cases().into_iter().chain(files::cases()).filter(is_wanted).collect();
    // What a case says is told in the table.
    panic::set_hook(Box::new(|_| ()));
    let verdicts = look_at_all(&cases);
    let widest = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
    for (case, verdict) in cases.iter().zip(&verdicts) {
        let (word, told) = match verdict {
            Ok(finding) if finding.advice.is_empty() => ("ok    ", finding.by.clone()),
            Ok(finding) => ("found ", format!("{}: {}", finding.by, finding.advice)),
            Err(why) => ("FAILED", why.clone()),
        };
        println!("{word} {:<widest$}  {told}", case.name);
    }
    let failed = verdicts.iter().filter(|verdict| verdict.is_err()).count();
    println!("{} passed, {failed} failed", verdicts.len() - failed);
    if failed == 0 && !cases.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Some at a time, in the order of the list.
fn look_at_all(cases: &[Case]) -> Vec<Result<Finding, String>> {
    let verdicts: Mutex<Vec<_>> = Mutex::new(cases.iter().map(|_| None).collect());
    let next = Mutex::new(0..cases.len());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(index) = next.lock().ok().and_then(|mut next| next.next()) {
                    let verdict = look_at(&cases[index]);
                    verdicts.lock().expect("nobody panics here")[index] = Some(verdict);
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().expect("nobody panics here");
    verdicts.into_iter().map(|verdict| verdict.expect("each was looked at")).collect()
}

fn look_at(case: &Case) -> Result<Finding, String> {
    panic::catch_unwind(AssertUnwindSafe(|| (case.look)())).unwrap_or_else(|panicked| {
        let text = panicked.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panicked.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned())
    })
}

/// Cases looked at together: they mostly wait, for the start of a proxy and for each other's processes.
const LANES: usize = 4;
