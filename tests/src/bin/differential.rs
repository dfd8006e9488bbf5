//! The corpus against ringfence, nginx and HAProxy: who refuses, who forwards, who forwards what can be read in two ways.
//!
//! The peers are Debian's, with the configuration that their manuals lead to: HTTP/1.1 and kept connections to the
//! upstream, limits like ringfence's. Each case is judged as in `tests/tests/corpus.rs`, over plain TCP. Printed are a
//! table of group and proxy, and every case in which ringfence is the laxest of the three; one that the corpus' README
//! does not explain makes the exit status 1. Arguments: parts of names of cases whose verdicts are printed one by one.
#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use ringfence_tests::arguments::Arguments;
use ringfence_tests::client::HOST;
use ringfence_tests::corpus::{self, Case, Folder, Group};
use ringfence_tests::judge::{self, Ending, Verdict};
use ringfence_tests::other_proxy::{OtherProxy, Software};
use ringfence_tests::stage::{Ledger, Stage};
use ringfence_tests::{Authority, MS, Proxy, exchange};

fn main() -> ExitCode {
    let shown = Arguments::read("tests/differential [PART-OF-A-CASE-NAME…]", &[], &[]).names;
    let subjects = subjects();
    let judged: Vec<(Peer, Vec<Verdict>)> =
        PEERS.iter().map(|peer| (*peer, judge_all(*peer, &subjects))).collect();
    let groups = corpus::groups();
    print_table(&groups, &subjects, &judged);
    for (index, subject) in subjects.iter().enumerate() {
        if shown.iter().any(|part| subject.case.name.contains(part.as_str())) {
            println!("{}", line(subject, &judged, index));
        }
    }
    print_laxest(&subjects, &judged)
}

/// A proxy to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Ringfence,
    Nginx,
    Haproxy,
}

const PEERS: [Peer; 3] = [Peer::Ringfence, Peer::Nginx, Peer::Haproxy];

/// A case and which side it comes from.
struct Subject {
    case: Case,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Exchange,
}

/// A column of the table; the strictest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Cut,
    Forwarded,
    Ambiguous,
    Wrong,
}

impl Outcome {
    fn of(verdict: &Verdict) -> Outcome {
        match verdict {
            Verdict::Refused(_) => Outcome::Refused,
            Verdict::Cut => Outcome::Cut,
            Verdict::Forwarded => Outcome::Forwarded,
            Verdict::Ambiguous(_) => Outcome::Ambiguous,
            Verdict::Wrong(_) => Outcome::Wrong,
        }
    }
}

const OUTCOMES: [Outcome; 5] =
    [Outcome::Refused, Outcome::Forwarded, Outcome::Ambiguous, Outcome::Cut, Outcome::Wrong];

fn subjects() -> Vec<Subject> {
    let of_kind =
        |folder: &str, kind| corpus::cases(folder).into_iter().map(move |case| Subject { case, kind });
    let script = |(name, bytes)| Subject {
        case: Case { name, folder: Folder::Accept, bytes, status: None, to_head: false },
        kind: Kind::Exchange,
    };
    let messages = of_kind("http1", Kind::Request).chain(of_kind("http1-response", Kind::Response));
    messages.chain(corpus::scripts().into_iter().map(script)).collect()
}

fn judge_all(peer: Peer, subjects: &[Subject]) -> Vec<Verdict> {
    let (next, outcomes) = (Mutex::new(0), Mutex::new(vec![Verdict::Cut; subjects.len()]));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let (mut stage, _running) = start(peer);
                while let Some(index) = take(&next, subjects.len()) {
                    let verdict = verdict(&mut stage, &subjects[index]);
                    outcomes.lock().expect("no lane panics")[index] = verdict;
                }
            });
        }
    });
    outcomes.into_inner().expect("no lane panics")
}

fn take(next: &Mutex<usize>, count: usize) -> Option<usize> {
    let mut next = next.lock().expect("no lane panics");
    *next += 1;
    (*next <= count).then(|| *next - 1)
}

fn verdict(stage: &mut Stage, subject: &Subject) -> Verdict {
    let case = &subject.case;
    let judgement = match subject.kind {
        Kind::Request => judge::request(stage, case, false),
        Kind::Response => judge::response(stage, case, &judge::sent(case), Ending::Closes, false),
        Kind::Exchange => exchange::perform(stage, &case.bytes, false),
    };
    judgement.verdict
}

/// A proxy that runs, until it is dropped.
enum Running {
    Ringfence { _proxy: Proxy },
    Other { _proxy: OtherProxy },
}

fn start(peer: Peer) -> (Stage, Running) {
    let ledger = Ledger::new();
    let origin = ledger.address();
    let (address, running) = match peer {
        Peer::Ringfence => start_ringfence(origin),
        Peer::Nginx => start_other(Software::Nginx, &nginx_config(origin)),
        Peer::Haproxy => start_other(Software::Haproxy, &haproxy_config(origin)),
    };
    let mut stage = Stage::new(ledger, address, None);
    stage.patience = PATIENCE_MS * MS;
    (stage, running)
}

fn start_ringfence(origin: SocketAddr) -> (SocketAddr, Running) {
    let url = format!("http://{origin}");
    let route = format!("[[route]]\npath = \"/\"\nupstream = \"{url}\"");
    let proxy = Proxy::builder().upstream(&url).extra(&route).start();
    (proxy.address, Running::Ringfence { _proxy: proxy })
}

fn start_other(software: Software, config: &str) -> (SocketAddr, Running) {
    let proxy = OtherProxy::start(software, &Authority::shared().certificate(&[HOST]), config, &[]);
    (proxy.address, Running::Other { _proxy: proxy })
}

/// As a homeserver's manual has it, with kept connections to the upstream and room for ringfence's limits.
fn nginx_config(origin: SocketAddr) -> String {
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path FOLDER/{name};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid FOLDER/nginx.pid;\nerror_log stderr crit;\nevents {{}}\nhttp {{\n{folders}\
         access_log off;\nclient_max_body_size 50m;\nlarge_client_header_buffers 4 32k;\n\
         upstream homeserver {{ server {origin} max_fails=0; keepalive 16; }}\n\
         server {{ listen ADDRESS;\nlocation / {{\nproxy_pass http://homeserver;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_set_header Host $http_host;\nproxy_buffer_size 64k;\n\
         proxy_buffers 8 64k;\nproxy_busy_buffers_size 128k;\n\
         proxy_set_header X-Forwarded-For $remote_addr;\n}} }} }}\n"
    )
}

fn haproxy_config(origin: SocketAddr) -> String {
    format!(
        "global\n  maxconn 500\n  tune.bufsize 49152\ndefaults\n  mode http\n  timeout connect 3s\n  timeout client 30s\n\
         \x20 timeout server 30s\n  timeout http-request 15s\nfrontend edge\n  bind ADDRESS\n  default_backend homeserver\n\
         backend homeserver\n  option forwardfor\n  server one {origin}\n"
    )
}

fn print_table(groups: &[Group], subjects: &[Subject], judged: &[(Peer, Vec<Verdict>)]) {
    println!(
        "refused / forwarded unambiguous / forwarded ambiguous / cut / wrong; exchanges: as scripted / otherwise\n"
    );
    println!("| group | cases | ringfence | nginx | HAProxy |\n|---|---|---|---|---|");
    for (kind, title) in
        [(Kind::Request, "requests"), (Kind::Response, "responses"), (Kind::Exchange, "exchanges")]
    {
        for (number, group) in groups.iter().enumerate() {
            let is_member = |subject: &Subject| {
                subject.kind == kind && corpus::group_of(groups, &subject.case.name) == Some(number)
            };
            let members: Vec<usize> =
                (0..subjects.len()).filter(|index| is_member(&subjects[*index])).collect();
            if !members.is_empty() {
                print_row(&format!("{title}: {}", group.name), kind, &members, judged);
            }
        }
        let all: Vec<usize> = (0..subjects.len()).filter(|index| subjects[*index].kind == kind).collect();
        print_row(&format!("**all {title}**"), kind, &all, judged);
    }
}

fn print_row(title: &str, kind: Kind, members: &[usize], judged: &[(Peer, Vec<Verdict>)]) {
    let columns = judged.iter().map(|(_, outcomes)| {
        let count = |wanted: Outcome| {
            members.iter().filter(|index| Outcome::of(&outcomes[**index]) == wanted).count()
        };
        let as_scripted = count(Outcome::Forwarded);
        let counts = match kind {
            Kind::Exchange => vec![as_scripted, members.len() - as_scripted],
            _ => OUTCOMES.into_iter().map(count).collect(),
        };
        counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" / ")
    });
    println!("| {title} | {} | {} |", members.len(), columns.collect::<Vec<_>>().join(" | "));
}

/// Every case in which ringfence lets through what both others do not.
fn print_laxest(subjects: &[Subject], judged: &[(Peer, Vec<Verdict>)]) -> ExitCode {
    let readme = fs::read_to_string(corpus::root().join("README.md")).unwrap_or_default();
    let is_laxest = |index: usize| {
        let of = |peer: usize| Outcome::of(&judged[peer].1[index]);
        subjects[index].kind != Kind::Exchange && of(0) > of(1).max(of(2))
    };
    let laxest: Vec<usize> = (0..subjects.len()).filter(|index| is_laxest(*index)).collect();
    println!("\nringfence is the laxest in {} cases:", laxest.len());
    let mut unexplained = 0;
    for index in laxest {
        let is_explained = readme.contains(&format!("`{}`", subjects[index].case.name));
        unexplained += usize::from(!is_explained);
        let note = if is_explained { "" } else { "  NOT EXPLAINED in the corpus' README" };
        println!("{}{note}", line(&subjects[index], judged, index));
    }
    println!("{unexplained} not explained");
    for (number, (peer, _)) in judged.iter().enumerate().skip(1) {
        let of = |peer: usize, index: usize| Outcome::of(&judged[peer].1[index]);
        let messages = (0..subjects.len()).filter(|index| subjects[*index].kind != Kind::Exchange);
        let laxer = messages.clone().filter(|index| of(0, *index) > of(number, *index)).count();
        let stricter = messages.filter(|index| of(0, *index) < of(number, *index)).count();
        println!("than {peer:?}, ringfence is laxer in {laxer} cases and stricter in {stricter}");
    }
    if unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(subject: &Subject, judged: &[(Peer, Vec<Verdict>)], index: usize) -> String {
    let verdicts: Vec<String> =
        judged.iter().map(|(peer, outcomes)| format!("{peer:?} {:?}", outcomes[index])).collect();
    format!("- {:?}/{:?}/{}: {}", subject.kind, subject.case.folder, subject.case.name, verdicts.join(", "))
}

/// Proxies of a kind side by side: a case mostly waits, in vain where a peer waits for more bytes.
const LANES: usize = 6;

/// How long nothing may happen before a case counts as over, in milliseconds: far above a round trip on loopback.
const PATIENCE_MS: u32 = 500;
