//! Instructions of every pure stage, and of a whole request through the binary: counted by callgrind, compared with
//! `benches/instructions.txt`. Started by the script `benches/instructions`.
//!
//! Unlike times, these counts are the same on a busy machine, and the same each time but for the few instructions that
//! depend on random keys and clocks. What they depend on stands in the file ([`conditions`]).
//!
//! Stages: this program runs itself under callgrind, which collects only inside of [`measured`] and writes what it has
//! at each end of it. Binary: two runs that differ in the number of requests alone are subtracted.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use ringfence_benches::{messages, stages};
use rustix::process::{Pid, Signal, kill_process};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--stages"] => {
            run_stages();
            Ok(true)
        }
        [] => count().map(|counts| {
            counts.iter().for_each(|(name, count)| println!("{count:>9} {name}"));
            true
        }),
        ["--check"] => count().and_then(|counts| check(&counts)),
        ["--update"] => count().and_then(|counts| update(&counts)),
        _ => {
            eprintln!("usage: benches/instructions [--check | --update]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Instructions by name.
type Counts = BTreeMap<String, u64>;

fn count() -> Result<Counts, Box<dyn Error>> {
    let mut counts = count_stages()?;
    for name in BINARY_REQUESTS {
        let head =
            messages::REQUESTS.iter().find(|request| request.name == name).ok_or("no such request")?.head;
        let content = vec![b'x'; content_bytes(head)];
        let request = [head, &content].concat();
        let (once, twice) = (run_binary(&request, REQUESTS)?, run_binary(&request, 2 * REQUESTS)?);
        counts.insert(format!("binary/{name}/epoll"), (twice - once) / REQUESTS as u64);
    }
    Ok(counts)
}

/// Compares with the file, and says what is to be done; whether nothing has grown.
fn check(counts: &Counts) -> Result<bool, Box<dyn Error>> {
    let (recorded, recorded_conditions) = read_file()?;
    let conditions = conditions()?;
    let bound = if conditions == recorded_conditions { BOUND } else { BOUND_ELSEWHERE };
    if conditions != recorded_conditions {
        println!("counted with   {conditions}\nrecorded with  {recorded_conditions}");
        println!("so {:.0} % are let pass instead of {:.0} %", BOUND_ELSEWHERE * 100.0, BOUND * 100.0);
    }
    let (mut grown, mut shrunk) = (0, 0);
    for (name, count) in counts {
        let Some(before) = recorded.get(name) else {
            println!("{count:>9} {name}: not in the file");
            grown += 1;
            continue;
        };
        let change = *count as f64 / *before as f64 - 1.0;
        let verdict = match change {
            _ if count.abs_diff(*before) <= ALIGNMENT => "",
            change if change > bound => "GROWN",
            change if change < -bound => "shrunk",
            _ => "",
        };
        grown += usize::from(verdict == "GROWN");
        shrunk += usize::from(verdict == "shrunk");
        println!("{before:>9} {count:>9} {:>+6.1} % {name} {verdict}", change * 100.0);
    }
    for name in recorded.keys().filter(|name| !counts.contains_key(*name)) {
        println!("{name}: in the file and nowhere else");
        grown += 1;
    }
    println!("{grown} grown, missing or new, {shrunk} shrunk of {}", counts.len());
    if grown + shrunk > 0 {
        println!("where that is meant: benches/instructions --update, and the reason in the commit");
    }
    Ok(grown == 0)
}

fn update(counts: &Counts) -> Result<bool, Box<dyn Error>> {
    let mut text = FILE_HEADER.to_owned() + &format!("{CONDITIONS}{}\n\n", conditions()?);
    for (name, count) in counts {
        text += &format!("{count:>9} {name}\n");
    }
    fs::write(file(), text)?;
    println!("{} counts written", counts.len());
    Ok(true)
}

/// The counts in the file, and under which conditions they were made.
fn read_file() -> Result<(Counts, String), Box<dyn Error>> {
    let text = fs::read_to_string(file())?;
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (count, name) = line.trim_start().split_once(' ').ok_or_else(|| format!("no count: {line}"))?;
        counts.insert(name.to_owned(), count.parse()?);
    }
    let conditions = text.lines().find_map(|line| line.strip_prefix(CONDITIONS)).unwrap_or_default();
    Ok((counts, conditions.to_owned()))
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// What decides which instructions run, besides the repository: the compiler, the C library, whose memcpy is chosen by
/// processor, and valgrind, which plays one of a few processors whatever is below it; with AVX2 if that has it.
fn conditions() -> Result<String, Box<dyn Error>> {
    let avx2 = fs::read_to_string("/proc/cpuinfo")?.contains(" avx2 ");
    let rustc = first_line("rustc", &["--version"])?;
    let (libc, valgrind) =
        (first_line("getconf", &["GNU_LIBC_VERSION"])?, first_line("valgrind", &["--version"])?);
    Ok(format!(
        "{rustc}, {libc}, {valgrind}, {} {} AVX2",
        env::consts::ARCH,
        if avx2 { "with" } else { "without" }
    ))
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.lines().next().unwrap_or_default().to_owned())
}

/// Under callgrind: every stage once for warmth, then measured.
fn run_stages() {
    for mut stage in stages::all() {
        (stage.run)();
        measured(&mut *stage.run);
    }
}

/// callgrind knows it by its name.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        run();
    }
}

fn count_stages() -> Result<Counts, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut command = callgrind(folder.path());
    command.args(["--toggle-collect=instructions::measured", "--dump-after=instructions::measured"]);
    let output = command.arg(env::current_exe()?).arg("--stages").output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let names: Vec<String> = stages::all().into_iter().map(|stage| stage.name).collect();
    let mut counts = Counts::new();
    for (index, name) in names.into_iter().enumerate() {
        let total = total(&folder.path().join(format!("{OUT}.{}", index + 1)))?;
        counts.insert(name, total / TIMES);
    }
    Ok(counts)
}

/// Instructions of a proxy that starts, serves so many requests on one connection and ends.
fn run_binary(request: &[u8], requests: usize) -> Result<u64, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let origin = TcpListener::bind("127.0.0.1:0")?;
    let (upstream, content) = (origin.local_addr()?, content_bytes(request));
    thread::spawn(move || serve(&origin, content));
    let address = free_address()?;
    let config = folder.path().join("ringfence.toml");
    fs::write(
        &config,
        format!(
            "[server]\nworkers = 1\naccess_log = \"off\"\n\
             [timeouts]\nupstream_first_byte = \"60s\"\n\
             [rate_limits]\nfederation_send = \"1000/s burst 100000\"\n\
             [[listener]]\naddress = \"{address}\"\ntls = false\nrole = \"client\"\n\
             [[homeserver]]\nserver_name = \"example.com\"\npublic_host = \"matrix.example.com\"\n\
             upstream = \"http://{upstream}\"\n"
        ),
    )?;
    let mut command = callgrind(folder.path());
    command.arg(binary()).args(["run", "--config"]).arg(&config).env("RINGFENCE_DRIVER", "epoll");
    let mut proxy = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let asked = ask(address, request, requests);
    let pid = i32::try_from(proxy.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    kill_process(pid, Signal::TERM)?;
    let status = proxy.wait()?;
    asked?;
    if !status.success() {
        return Err(format!("ringfence under callgrind: {status}").into());
    }
    total(&folder.path().join(OUT))
}

/// Sends the request again and again, each when the answer before is there.
fn ask(address: SocketAddr, request: &[u8], times: usize) -> io::Result<()> {
    let mut connection = connect(address)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = vec![0; 64 * 1024];
    for _ in 0..times {
        connection.write_all(request)?;
        let (mut answer, mut is_whole) = (Vec::new(), false);
        while !is_whole {
            match connection.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => answer.extend_from_slice(&bytes[..read]),
            }
            is_whole = answer.ends_with(CONTENT);
        }
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::Error::other("not 200"));
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Err(_) if Instant::now() < deadline => thread::park_timeout(Duration::from_millis(50)),
            connected => return connected,
        }
    }
}

/// Plays the origin: answers each request, whose content is so long, at once.
fn serve(origin: &TcpListener, content: usize) {
    for connection in origin.incoming().map_while(Result::ok) {
        thread::spawn(move || {
            let _ = serve_connection(connection, content);
        });
    }
}

fn serve_connection(mut connection: TcpStream, content: usize) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let answer = [messages::RESPONSES[0].head, CONTENT].concat();
    let (mut request, mut bytes) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match connection.read(&mut bytes)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&bytes[..read]),
        }
        let head_end = request.windows(4).position(|window| window == b"\r\n\r\n");
        if head_end.is_some_and(|at| request.len() == at + 4 + content) {
            request.clear();
            connection.write_all(&answer)?;
        }
    }
}

fn content_bytes(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head);
    let length = text.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: "));
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// `$RINGFENCE`, or the release build beside this one.
fn binary() -> PathBuf {
    let beside = || env::current_exe().unwrap_or_default().with_file_name("ringfence");
    env::var_os("RINGFENCE").map_or_else(beside, PathBuf::from)
}

fn callgrind(folder: &Path) -> Command {
    let mut command = Command::new("valgrind");
    let out = format!("--callgrind-out-file={}", folder.join(OUT).display());
    command.args(["--tool=callgrind", &out]).stdin(Stdio::null());
    command
}

fn total(path: &Path) -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("callgrind gives no total")?;
    Ok(total.trim().parse()?)
}

/// By how much a count may differ from the recorded one, as a part of it.
const BOUND: f64 = 0.03;
/// The same under other conditions: compilers differ by some percent.
const BOUND_ELSEWHERE: f64 = 0.15;
/// By how many instructions a count may always differ: where the stack begins depends on the environment's length, and with
/// the alignment of what is copied a copy takes some 12 more or fewer.
const ALIGNMENT: u64 = 24;

/// How often a stage is done while it is measured.
const TIMES: u64 = 20;

/// The requests that are sent through the whole binary.
const BINARY_REQUESTS: [&str; 2] = ["sync", "federation_send"];
/// How many in the shorter run; so many that a clock that ticks meanwhile hardly counts.
const REQUESTS: usize = 2000;

/// Content of the origin's answers; as long as [`messages::RESPONSES`] says.
const CONTENT: &[u8] = &[b'x'; 1207];

/// How long the proxy may take to start or to answer under callgrind, which makes it some 50 times slower.
const PATIENCE: Duration = Duration::from_secs(60);

const OUT: &str = "callgrind.out";
const CONDITIONS: &str = "# conditions: ";

const FILE_HEADER: &str = "\
# Instructions of each stage and of one request through the whole binary (epoll, one keep-alive connection, without the
# kernel's), counted by callgrind: `benches/instructions --update` writes this file, `--check` compares with it and fails
# where one has grown by more than 3 % and 24 instructions. Whoever makes one grow on purpose updates the file and says
# why in the commit.
#
# The counts are those of the release profile with the crates of Cargo.lock. They depend on the compiler, on the C library and
# on the processor that valgrind plays; where these are others than the following, 15 % are let pass. httparse and memcpy
# are not ours, but what ours is to be compared with.
";
