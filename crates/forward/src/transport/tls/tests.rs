//! A client and a server of ours over a pipe in memory.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Wake,
};

use rustls::{
    CipherSuiteCommon, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

use ringfence_tls::{Certificate, server_config};

use super::*;
use crate::{limits::HEAD_BUFFER_BYTES, transport::pipe::Pipe};

/// Bytes that each direction of a pipe holds: a handshake fits, two full records do not.
const CAPACITY: usize = 20 * KIB;

/// A session of TLS 1.2 whose keys bear so many records, that of the handshake counted.
fn connected(records_max: u64) -> (Tls<Pipe>, Tls<Pipe>) {
    connected_by(Pipe::pair(CAPACITY), worn(records_max), &TLS12)
}

fn connected_by(
    (near, far): (Pipe, Pipe),
    provider: CryptoProvider,
    version: &'static SupportedProtocolVersion,
) -> (Tls<Pipe>, Tls<Pipe>) {
    let (client_config, server_config) = configs(Arc::new(provider), version);
    let name = ServerName::try_from("hs.internal").unwrap();
    let client = Tls::client(near, client_config, name, Buffers::new()).unwrap();
    let server = Tls::new(far, server_config, Buffers::new());
    {
        let (mut ours, mut theirs) = (pin!(client.handshake()), pin!(server.handshake()));
        let cx = &mut Context::from_waker(Waker::noop());
        let (mut is_done, mut is_done_there) = (false, false);
        while !(is_done && is_done_there) {
            is_done = is_done || done(ours.as_mut().poll(cx));
            is_done_there = is_done_there || done(theirs.as_mut().poll(cx));
        }
    }
    (client, server)
}

fn done(handshake: Poll<Result<Version, HandshakeError>>) -> bool {
    handshake.map(|shaken| shaken.unwrap()).is_ready()
}

fn worn(records_max: u64) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        if let SupportedCipherSuite::Tls12(known) = *suite {
            let CipherSuiteCommon { suite: name, hash_provider, .. } = known.common;
            let common = CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit: records_max };
            let Tls12CipherSuite { prf_provider, kx, sign, aead_alg, .. } = *known;
            // For the rest of the test, as suites are.
            *suite = SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common,
                prf_provider,
                kx,
                sign,
                aead_alg,
            })));
        }
    }
    provider
}

fn configs(
    provider: Arc<CryptoProvider>,
    version: &'static SupportedProtocolVersion,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let issued = rcgen::generate_simple_self_signed(["hs.internal".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Records of TLS 1.3 are the session's own.
    client.enable_secret_extraction = true;
    let (chain, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes(), "a certificate").unwrap();
    (Arc::new(client), server_config(vec![certificate]).unwrap())
}

fn write(from: &Tls<Pipe>, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    from.poll_write(cx, &[IoSlice::new(bytes)])
}

fn read(at: &Tls<Pipe>, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, io::ErrorKind>> {
    let mut plaintext = [0; 100];
    let read = ready!(at.poll_read(cx, &mut plaintext));
    Poll::Ready(read.map(|read| plaintext[..read].to_vec()).map_err(|error| error.kind()))
}

#[test]
fn who_waits_for_an_answer_hears_that_the_key_is_worn_out() {
    let (client, server) = connected(3);
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..2 {
        assert!(matches!(write(&client, b"request", cx), Poll::Ready(Ok(7))));
        assert_eq!(read(&server, cx), Poll::Ready(Ok(b"request".to_vec())));
    }
    assert!(client.poll_readable(cx).is_pending() && client.is_quiet());
    assert!(matches!(write(&server, b"answer", cx), Poll::Ready(Ok(6))));
    let refused = write(&client, b"request", cx);
    assert!(matches!(&refused, Poll::Ready(Err(_))), "{refused:?}");
    // What has come is handed out first.
    assert_eq!(read(&client, cx), Poll::Ready(Ok(b"answer".to_vec())));
    assert!(client.poll_readable(cx).is_ready() && !client.is_quiet());
    assert_eq!(read(&client, cx), Poll::Ready(Err(io::ErrorKind::BrokenPipe)));
}

/// Counts how often it is woken.
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_waits_to_write_is_woken_after_a_look_whether_all_is_quiet() {
    let (client, server) = connected(1000);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let writing = &mut Context::from_waker(&waker);
    let piece = [7; 16 * KIB];
    while write(&client, &piece, writing).is_ready() {}
    assert!(client.is_quiet());
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    let reading = &mut Context::from_waker(Waker::noop());
    assert!(matches!(read(&server, reading), Poll::Ready(Ok(_))));
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}

/// A client that has written a head and then full records, as far as a pipe of `capacity` takes them; and its server.
fn written(head_bytes: usize, capacity: usize) -> (Tls<Pipe>, Tls<Pipe>) {
    let (client, server) = connected_by(Pipe::pair(capacity), aws_lc_rs::default_provider(), &TLS13);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(write(&client, &vec![1; head_bytes], cx).is_ready());
    while write(&client, &[2; RECORD_PLAINTEXT_BYTES_MAX], cx).is_ready() {}
    (client, server)
}

fn read_bytes(at: &Tls<Pipe>, room: usize) -> Poll<usize> {
    let read = at.poll_read(&mut Context::from_waker(Waker::noop()), &mut vec![0; room]);
    read.map(Result::unwrap)
}

#[test]
fn a_large_read_takes_many_records_though_a_part_of_one_was_left_of_a_small_read() {
    let (_client, server) = written(200, 4 * BULK_BUFFER_BYTES);
    // With it come the first bytes of the next record.
    assert_eq!(read_bytes(&server, HEAD_BUFFER_BYTES), Poll::Ready(200));
    for _ in 0..3 {
        assert_eq!(read_bytes(&server, BULK_BUFFER_BYTES), Poll::Ready(BULK_BUFFER_BYTES));
    }
}

#[test]
fn a_part_of_a_record_waits_in_a_buffer_of_a_records_size() {
    let (_client, server) = written(200, BULK_BUFFER_BYTES);
    assert!(matches!(read_bytes(&server, BULK_BUFFER_BYTES), Poll::Ready(200..BULK_BUFFER_BYTES)));
    let state = server.state.borrow();
    let incoming = state.incoming.as_ref().expect("a part of a record is left");
    assert_eq!(incoming.buffer.len(), RECORD_BUFFER_BYTES);
}
