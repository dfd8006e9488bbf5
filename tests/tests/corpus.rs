//! Every case of the corpus against the running binary, plain and over TLS, between a strict client and a strict
//! origin that notes every byte (`tests/corpus/README.md`).

use std::sync::Mutex;
use std::thread;

use ringfence_tests::Proxy;
use ringfence_tests::corpus::{self, Case, Folder};
use ringfence_tests::exchange;
use ringfence_tests::judge::{self, Ending, Judgement, Verdict};
use ringfence_tests::stage::{Ledger, Stage};

/// Proxies side by side: a case mostly waits, but not for long.
const LANES: usize = 4;

/// A stage around a ringfence that forwards every path.
fn stage() -> (Stage, Proxy) {
    let ledger = Ledger::new();
    let url = format!("http://{}", ledger.address());
    let route = format!("[[route]]\npath = \"/\"\nupstream = \"{url}\"");
    let proxy = Proxy::builder().upstream(&url).extra(&route).tls().listener("role = \"client\"").start();
    (Stage::new(ledger, proxy.addresses[1], Some(proxy.addresses[0])), proxy)
}

/// Runs `judge` over `cases`, plain and over TLS, and fails with everything that it finds.
fn assert_all(cases: &[Case], judge: impl Fn(&mut Stage, &Case, bool) -> Vec<String> + Sync) {
    let (next, found) = (Mutex::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let (mut stage, _proxy) = stage();
                while let Some(case) = take(&next, cases) {
                    for tls in [false, true] {
                        let faults = judge(&mut stage, case, tls);
                        let named = faults
                            .iter()
                            .map(|fault| format!("{:?} {} tls={tls}: {fault}", case.folder, case.name));
                        found.lock().expect("no lane panics").extend(named);
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().expect("no lane panics");
    found.sort();
    assert!(found.is_empty(), "{} of {} cases:\n{}", found.len(), cases.len(), found.join("\n"));
}

fn take<'c>(next: &Mutex<usize>, cases: &'c [Case]) -> Option<&'c Case> {
    let mut next = next.lock().expect("no lane panics");
    *next += 1;
    cases.get(*next - 1)
}

/// What is wrong with a judgement, if not one of `right`.
fn faults_of(judgement: Judgement, is_right: impl Fn(&Verdict) -> bool) -> Vec<String> {
    let Judgement { verdict, mut faults } = judgement;
    if !is_right(&verdict) {
        faults.insert(0, format!("{verdict:?}"));
    }
    faults
}

fn in_folder(cases: Vec<Case>, folder: Folder) -> Vec<Case> {
    cases.into_iter().filter(|case| case.folder == folder).collect()
}

/// Checked by counting the files of each group, and by their bytes.
#[test]
fn the_readme_counts_every_case_and_no_two_are_alike() {
    let groups = corpus::groups();
    let mut counts = vec![[0; 3]; groups.len()];
    let mut all = Vec::new();
    for (kind, folder) in ["http1", "http1-response"].into_iter().enumerate() {
        all.extend(
            corpus::cases(folder).into_iter().map(|case| (kind, case.name, (case.to_head, case.bytes))),
        );
    }
    all.extend(corpus::scripts().into_iter().map(|(name, bytes)| (2, name, (false, bytes))));
    for (kind, name, _) in &all {
        let group =
            corpus::group_of(&groups, name).unwrap_or_else(|| panic!("no group of the README holds {name}"));
        counts[group][*kind] += 1;
    }
    let stated: Vec<_> = groups.iter().map(|group| (&group.name, group.counts)).collect();
    let counted: Vec<_> = groups.iter().zip(counts).map(|(group, counts)| (&group.name, counts)).collect();
    assert_eq!(stated, counted);

    all.sort_by(|one, other| (one.0, &one.2).cmp(&(other.0, &other.2)));
    let alike = all.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].2 == pair[1].2);
    assert!(alike.is_none(), "{:?} and {:?}", alike.map(|pair| &pair[0].1), alike.map(|pair| &pair[1].1));
}

#[test]
fn accepted_requests_arrive_as_exactly_what_they_are() {
    assert_all(&in_folder(corpus::cases("http1"), Folder::Accept), |stage, case, tls| {
        let wanted = case.status.map_or(Verdict::Forwarded, Verdict::Refused);
        faults_of(judge::request(stage, case, tls), |verdict| *verdict == wanted)
    });
}

#[test]
fn refused_requests_get_one_answer_and_nothing_reaches_the_origin() {
    assert_all(&in_folder(corpus::cases("http1"), Folder::Reject), |stage, case, tls| {
        let wanted = Verdict::Refused(case.status.unwrap_or(400));
        faults_of(judge::request(stage, case, tls), |verdict| *verdict == wanted)
    });
}

#[test]
fn unfinished_requests_are_never_finished_towards_the_origin() {
    assert_all(&in_folder(corpus::cases("http1"), Folder::Incomplete), |stage, case, tls| {
        faults_of(judge::request(stage, case, tls), |verdict| matches!(verdict, Verdict::Refused(_)))
    });
}

#[test]
fn exchanges_go_as_their_scripts_say() {
    let script = |(name, bytes)| Case { name, folder: Folder::Accept, bytes, status: None, to_head: false };
    let scripts: Vec<Case> = corpus::scripts().into_iter().map(script).collect();
    assert_all(&scripts, |stage, case, tls| {
        faults_of(exchange::perform(stage, &case.bytes, tls), |verdict| *verdict == Verdict::Forwarded)
    });
}

#[test]
fn accepted_responses_are_passed_whole() {
    assert_all(&in_folder(corpus::cases("http1-response"), Folder::Accept), |stage, case, tls| {
        let wanted = case.status.map_or(Verdict::Forwarded, Verdict::Refused);
        let mut faults = Vec::new();
        for ending in [Ending::Closes, Ending::Poisons] {
            // What ends by close has no other response behind it.
            if ending == Ending::Poisons && judge::ends_by_close(case) {
                continue;
            }
            faults.extend(faults_of(
                judge::response(stage, case, &judge::sent(case), ending, tls),
                |verdict| *verdict == wanted,
            ));
        }
        faults
    });
}

#[test]
fn refused_responses_become_502_or_are_cut() {
    assert_all(&in_folder(corpus::cases("http1-response"), Folder::Reject), |stage, case, tls| {
        faults_of(judge::response(stage, case, &case.bytes, Ending::Closes, tls), is_502_or_cut)
    });
}

#[test]
fn unfinished_responses_become_502_or_are_cut_however_they_end() {
    assert_all(&in_folder(corpus::cases("http1-response"), Folder::Incomplete), |stage, case, tls| {
        let endings = [Ending::Closes, Ending::Resets];
        let judged = endings.map(|ending| judge::response(stage, case, &case.bytes, ending, tls));
        judged.into_iter().flat_map(|judgement| faults_of(judgement, is_502_or_cut)).collect()
    });
}

/// Checked at every byte, with a FIN and with a reset behind it.
#[test]
fn responses_cut_at_any_byte_never_look_complete() {
    let cut = |case: &Case| TRUNCATED.contains(&case.name.as_str());
    let cases: Vec<Case> = corpus::cases("http1-response").into_iter().filter(cut).collect();
    assert_eq!(cases.len(), TRUNCATED.len());
    let mut prefixes = Vec::new();
    for case in cases {
        let prefix = |length: usize| Case { bytes: case.bytes[..length].to_vec(), ..case.clone() };
        prefixes.extend((1..case.bytes.len()).map(prefix));
    }
    assert_all(&prefixes, |stage, case, tls| {
        let until_close_begun = judge::ends_by_close(case);
        let mut faults = Vec::new();
        for ending in [Ending::Closes, Ending::Resets] {
            let is_whole = until_close_begun && ending == Ending::Closes;
            let judgement = judge::response(stage, case, &case.bytes, ending, tls);
            faults.extend(faults_of(judgement, |verdict| {
                if is_whole { *verdict == Verdict::Forwarded } else { is_502_or_cut(verdict) }
            }));
        }
        faults
    });
}

/// One of each way in which a response ends.
const TRUNCATED: &[&str] = &[
    "9112-6.3-204",
    "9112-6.3-until-close",
    "9112-7.1.2-trailers",
    "9112-9.3-close",
    "9110-15.2-hints-then-chunked",
    "9112-6.3-length.to-head",
];

fn is_502_or_cut(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(502) | Verdict::Cut)
}
