//! What a head and a chunked body cost: ours against the bare tokeniser that ours is built on.
//!
//! Each stage checks its answer in the measured loop, so that none is fast by doing nothing. `httparse` is the floor:
//! it neither looks for wrong line ends nor judges framing, target, host and connection.
//!
//! `cargo bench -p ringfence-benches --bench http1`

use std::hint::black_box;
use std::io::IoSlice;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use ringfence_http1::{
    Advanced, ChunkedDecoder, HeadLimits, HeadScan, LAST_CHUNK, OutgoingHead, RequestHead, chunk_header,
};

/// A request head as a peer of a homeserver sends it.
struct Sample {
    name: &'static str,
    head: &'static [u8],
    target_bytes: usize,
    field_count: usize,
}

/// A long poll of a web client, with what a browser adds.
const SYNC: &[u8] = b"GET /_matrix/client/v3/sync?filter=0&timeout=30000&set_presence=online&since=s72595_4483_1934_1_2_3 \
HTTP/1.1\r\nHost: matrix.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 \
Firefox/128.0\r\nAccept: application/json\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, \
zstd\r\nReferer: https://app.element.example/\r\nAuthorization: Bearer syt_YWxpY2U_bXlzZWNyZXR0b2tlbg_1aB2cD\r\n\
Origin: https://app.element.example\r\nConnection: keep-alive\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\n\
Sec-Fetch-Site: cross-site\r\nPriority: u=4\r\n\r\n";

/// A transaction of a federation peer, signed with two keys.
const FEDERATION_PUT: &[u8] = b"PUT /_matrix/federation/v1/send/1764000000000 HTTP/1.1\r\nHost: matrix-fed.example.com:8448\
\r\nUser-Agent: Synapse/1.142.0\r\nContent-Type: application/json\r\nContent-Length: 1843\r\nAuthorization: X-Matrix \
origin=\"remote.example\",key=\"ed25519:a_AbCd\",sig=\"q3b0Zl1Yw1t7Jb9v7m3cS2H5yqN8y1Zt0kP4nq7xE2uVb6dWg\",destination=\
\"example.com\"\r\nAuthorization: X-Matrix origin=\"remote.example\",key=\"ed25519:b_EfGh\",sig=\
\"Zt0kP4nq7xE2uVb6dWgq3b0Zl1Yw1t7Jb9v7m3cS2H5yqN8y1\",destination=\"example.com\"\r\n\r\n";

/// A download by a mobile client.
const MEDIA_DOWNLOAD: &[u8] = b"GET /_matrix/client/v1/media/download/example.com/AbCdEfGhIjKlMnOpQrStUvWx?timeout_ms=20000 \
HTTP/1.1\r\nauthorization: Bearer syt_Ym9i_ZG93bmxvYWRpbmdhdG9rZW4_3eF4gH\r\nuser-agent: Element X/25.11.0 (Pixel 8; \
Android 15)\r\naccept-encoding: gzip\r\nhost: matrix.example.com\r\nrange: bytes=0-\r\n\r\n";

const SAMPLES: [Sample; 3] = [
    Sample { name: "sync", head: SYNC, target_bytes: 95, field_count: 13 },
    Sample { name: "federation_put", head: FEDERATION_PUT, target_bytes: 41, field_count: 6 },
    Sample { name: "media_download", head: MEDIA_DOWNLOAD, target_bytes: 87, field_count: 5 },
];

fn request_heads(criterion: &mut Criterion) {
    for sample in &SAMPLES {
        let mut group = criterion.benchmark_group(format!("request_head/{}", sample.name));
        group.throughput(Throughput::Bytes(sample.head.len() as u64));
        bare_httparse(&mut group, sample);
        scan(&mut group, sample);
        parse(&mut group, sample);
        forward(&mut group, sample);
        group.finish();
    }
}

fn bare_httparse(group: &mut BenchmarkGroup<'_, WallTime>, sample: &Sample) {
    group.bench_function("httparse", |bencher| {
        bencher.iter(|| {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            let mut request = httparse::Request::new(&mut fields);
            let parsed = request.parse(black_box(sample.head));
            assert_eq!(parsed, Ok(httparse::Status::Complete(sample.head.len())));
            assert_eq!(request.path.map(str::len), Some(sample.target_bytes));
            assert_eq!(request.headers.len(), sample.field_count);
        });
    });
}

fn scan(group: &mut BenchmarkGroup<'_, WallTime>, sample: &Sample) {
    let limits = HeadLimits::default();
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            let scanned = HeadScan::new().scan(black_box(sample.head), &limits);
            assert_eq!(scanned, Ok(Some(sample.head.len())));
        });
    });
}

fn parse(group: &mut BenchmarkGroup<'_, WallTime>, sample: &Sample) {
    let limits = HeadLimits::default();
    let mut request = RequestHead::with_capacity(limits.field_count_max);
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            assert_eq!(request.parse(black_box(sample.head), &limits), Ok(()));
            assert_eq!(request.target().len(), sample.target_bytes);
            assert_eq!(request.fields().len(), sample.field_count);
        });
    });
}

/// All that a head costs on its way: found, judged, and put together for the next hop.
fn forward(group: &mut BenchmarkGroup<'_, WallTime>, sample: &Sample) {
    let limits = HeadLimits::default();
    let mut request = RequestHead::with_capacity(limits.field_count_max);
    let mut outgoing = OutgoingHead::with_capacity(16, 256);
    group.bench_function("scan_parse_forward", |bencher| {
        bencher.iter(|| {
            let head = black_box(sample.head);
            assert_eq!(HeadScan::new().scan(head, &limits), Ok(Some(head.len())));
            assert_eq!(request.parse(head, &limits), Ok(()));
            outgoing.clear();
            outgoing.push_input(request.start_line());
            for field in request.fields().iter().filter(|field| !field.hop_by_hop) {
                outgoing.push_input(field.line);
            }
            outgoing.push_owned(b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n");
            let mut slices = [IoSlice::new(b""); 16];
            let filled = outgoing.slices(head, 0, &mut slices);
            let sent: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            assert_eq!(sent, outgoing.len());
        });
    });
}

/// One read of a relay: 256 KiB in chunks as small as an origin dribbles and as large as it streams.
fn chunked_bodies(criterion: &mut Criterion) {
    for chunk_bytes in [64, 8 * 1024, 64 * 1024] {
        let body = chunked_body(chunk_bytes);
        let mut group = criterion.benchmark_group(format!("chunked/{chunk_bytes}"));
        group.throughput(Throughput::Bytes(BODY_BYTES as u64));
        let whole = Advanced { consumed: body.len(), data: BODY_BYTES as u64, ended: true };
        group.bench_function("advance", |bencher| {
            bencher.iter(|| assert_eq!(ChunkedDecoder::new().advance(black_box(&body)), Ok(whole)));
        });
        group.finish();
    }
}

fn chunked_body(chunk_bytes: usize) -> Vec<u8> {
    let data = vec![b'x'; chunk_bytes];
    let chunk = [chunk_header(chunk_bytes as u64).as_slice(), &data, b"\r\n"].concat();
    [chunk.repeat(BODY_BYTES / chunk_bytes), LAST_CHUNK.to_vec()].concat()
}

/// Content of the chunked body in bytes: what one pooled buffer of the relay holds.
const BODY_BYTES: usize = 256 * 1024;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = request_heads, chunked_bodies
}
criterion_main!(benches);
