//! Faults of ringfence's own file, which `ringfence explain` names without any traffic.
#![forbid(unsafe_code)]

use std::fs;

use ringfence_tests::proxy::{CONFIG, ringfence};

use crate::{Case, Finding};

/// A fault of the file.
struct Fault {
    name: &'static str,
    /// Replaced in the sound file.
    line: (&'static str, &'static str),
    /// The request that shows it.
    request: &'static [&'static str],
    /// What is said of it, with the key or the line to change.
    said: &'static str,
}

/// Every fault, after the control.
pub(crate) fn cases() -> Vec<Case> {
    let control = Case { name: "explain: sound".to_owned(), look: Box::new(control) };
    let cases = FAULTS
        .iter()
        .map(|fault| Case { name: format!("explain: {}", fault.name), look: Box::new(|| fault.look()) });
    std::iter::once(control).chain(cases).collect()
}

/// Each request of the faults is forwarded by the sound file, and nothing is said against it.
fn control() -> Result<Finding, String> {
    for fault in FAULTS {
        let text = explain(SOUND, fault.request)?;
        if !text.contains("\noutcome    forwarded to 127.0.0.1:8008\n") || text.contains("\nwarning: ") {
            return Err(format!("{:?}: {text}", fault.request));
        }
        if text.contains(fault.said) {
            return Err(format!("{:?} is said of the sound file: {text}", fault.said));
        }
    }
    Ok(Finding { by: "every request is forwarded, nothing is warned of".to_owned(), advice: String::new() })
}

impl Fault {
    fn look(&self) -> Result<Finding, String> {
        let (from, to) = self.line;
        let count = SOUND.matches(from).count();
        if count != 1 {
            return Err(format!("the sound file has {from:?} {count} times"));
        }
        let text = explain(&SOUND.replace(from, to), self.request)?;
        let mut by = "";
        for line in text.lines() {
            let (label, rest) = line.split_once(' ').unwrap_or((line, ""));
            // What begins with a space goes on with what was said before.
            by = if label.is_empty() { by } else { label.trim_end_matches(':') };
            if line.contains(self.said) {
                return Ok(Finding { by: by.to_owned(), advice: rest.trim().to_owned() });
            }
        }
        Err(format!("nothing has {:?} in\n{text}", self.said))
    }
}

fn explain(config: &str, request: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(CONFIG);
    fs::write(&file, config).expect("a file can be written");
    let file = file.to_string_lossy();
    let output = ringfence(&[&["explain", "--config", &file], request].concat());
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

const SOUND: &str = r#"trusted_proxies = []
strict_hosts = false

[[homeserver]]
server_name = "example.com"
public_host = "matrix.example.com"
upstream = "http://127.0.0.1:8008"

[[certificate]]
chain = "chain.pem"
key = "key.pem"

[[listener]]
address = "[::]:443"
role = "client"
admin_from = ["10.0.0.0/8"]

[[listener]]
address = "[::]:8448"
role = "federation"

[[route]]
path = "/web"
upstream = "http://127.0.0.1:9000"

[limits]
body_bytes_max = "50 MiB"

[rate_limits]
login = "20/min burst 20"
"#;

const FAULTS: &[Fault] = &[
    Fault {
        name: "a route takes the homeserver's paths",
        line: ("path = \"/web\"", "path = \"/_matrix/client\""),
        request: &["GET", "https://matrix.example.com/_matrix/client/versions"],
        said: "[[route]] at ringfence.toml:23",
    },
    Fault {
        name: "everyone in trusted_proxies",
        line: ("trusted_proxies = []", "trusted_proxies = [\"0.0.0.0/0\"]"),
        request: &["GET", "https://matrix.example.com/_matrix/client/versions"],
        said: "trusted_proxies has 0.0.0.0/0",
    },
    Fault {
        name: "admin_from of another network",
        line: ("admin_from = [\"10.0.0.0/8\"]", "admin_from = [\"192.168.0.0/16\"]"),
        request: &["GET", "https://matrix.example.com/_synapse/admin/v1/rooms", "--client", "10.0.0.5"],
        said: "10.0.0.5 is not in the listener's admin_from (192.168.0.0/16)",
    },
    Fault {
        name: "no admin_from",
        line: ("admin_from = [\"10.0.0.0/8\"]", ""),
        request: &["GET", "https://matrix.example.com/_synapse/admin/v1/rooms", "--client", "10.0.0.5"],
        said: "the listener has no admin_from",
    },
    Fault {
        name: "a misspelt public_host",
        line: ("public_host = \"matrix.example.com\"", "public_host = \"matrix.exmaple.com\""),
        request: &["GET", "https://matrix.example.com/_matrix/client/versions"],
        said: "matrix.example.com: nobody claims it",
    },
    Fault {
        name: "strict_hosts and a host that nobody has",
        line: ("strict_hosts = false", "strict_hosts = true"),
        request: &["GET", "https://chat.example.com/_matrix/client/versions"],
        said: "nobody claims it, and strict_hosts refuses such hosts",
    },
    Fault {
        name: "body_bytes_max below an upload",
        line: ("body_bytes_max = \"50 MiB\"", "body_bytes_max = \"1 MiB\""),
        request: &[
            "POST",
            "https://matrix.example.com/_matrix/media/v3/upload",
            "--header",
            "Content-Length: 10485760",
        ],
        said: "body 1 MiB by [limits] body_bytes_max",
    },
    Fault {
        name: "a rate limit that locks people out",
        line: ("login = \"20/min burst 20\"", "login = \"1/h burst 1\""),
        request: &[
            "POST",
            "https://matrix.example.com/_matrix/client/v3/login",
            "--header",
            "Content-Length: 2",
        ],
        said: "1/h burst 1 for each client address by [rate_limits] login",
    },
];
