//! A name server that knows one service (RFC 1035, RFC 2782).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Answers until it is dropped: the service is at `srv.example.com`, and every name has the same address.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

/// Record types (RFC 1035 §3.2.2, RFC 2782).
const A: u16 = 1;
const SRV: u16 = 33;

impl NameServer {
    pub(crate) fn start(service: &str, port: u16) -> NameServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let (flag, service) = (Arc::clone(&stopping), service.to_owned());
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let _ = socket.send_to(&answer(&query[..length], &service, port), peer);
            }
        });
        NameServer { address, stopping }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes it.
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let _ = waker.send_to(b"", self.address);
    }
}

fn answer(query: &[u8], service: &str, port: u16) -> Vec<u8> {
    // The question begins behind the header of 12 bytes; its name ends with an empty label.
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 1;
    let name = name_of(&query[12..end]);
    let record_type = u16::from_be_bytes([query[end], query[end + 1]]);
    let data = match record_type {
        A => Some(Ipv4Addr::LOCALHOST.octets().to_vec()),
        SRV if name == service => {
            let mut data = [0_u16, 0, port].map(u16::to_be_bytes).concat();
            data.extend(["srv", "example", "com"].iter().flat_map(|label| label_of(label)));
            data.push(0);
            Some(data)
        }
        _ => None,
    };
    let count = u8::from(data.is_some());
    // The same id; an answer with recursion; one question, as many records, nothing more.
    let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0], &query[12..end + 4]].concat();
    if let Some(data) = data {
        let length = u16::try_from(data.len()).expect("a short record").to_be_bytes();
        // The name of the question, the type, class IN, a second to live.
        answer.extend([&[0xc0, 12], &query[end..end + 2], &[0, 1, 0, 0, 0, 1], &length, &data[..]].concat());
    }
    answer
}

fn label_of(label: &str) -> Vec<u8> {
    [&[u8::try_from(label.len()).expect("a short label")], label.as_bytes()].concat()
}

fn name_of(labels: &[u8]) -> String {
    let mut rest = labels;
    let mut name = Vec::new();
    while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
        let (label, next) = after.split_at(usize::from(*length));
        name.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        rest = next;
    }
    name.join(".")
}
