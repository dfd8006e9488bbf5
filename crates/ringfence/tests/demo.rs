//! `ringfence demo` as a person meets it: it comes up by itself, and an interrupt ends it and leaves nothing behind.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Lines, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a step may take. Far above what it needs, because the machine may be shared with builds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends the process when a test gives up on it.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // It has usually ended by itself, which is the only way in which this can fail.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_interrupt_ends_the_demo_and_leaves_nothing_behind() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    let demo = demo.arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = Demo(demo.spawn().unwrap());
    let mut banner = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let mut log = BufReader::new(demo.0.stderr.take().unwrap()).lines();

    let port = value_after(&mut banner, "https://localhost:");
    let folder = value_after(&mut banner, "files ");
    let folder = Path::new(folder.split(',').next().unwrap().trim());
    value_after(&mut log, "serving");
    assert!(folder.join("ca.pem").exists());
    let client = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();

    kill_process(Pid::from_child(&demo.0), Signal::INT).unwrap();
    wait_for_end(banner);
    let status = demo.0.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!folder.exists(), "{folder:?} is left behind");
    drop(client);
}

/// What follows `before` in the first line that holds it.
fn value_after(lines: &mut Lines<impl BufRead>, before: &str) -> String {
    let value = lines.map_while(Result::ok).find_map(|line| Some(line.split_once(before)?.1.to_owned()));
    value.unwrap_or_else(|| panic!("it ended without a line that holds {before:?}"))
}

/// Waits until the process has closed its output.
fn wait_for_end(mut output: Lines<BufReader<impl Read + Send + 'static>>) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        while output.next().is_some() {}
        ended.send(())
    });
    end.recv_timeout(PATIENCE).expect("an interrupt ends the demo");
}
