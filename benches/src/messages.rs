//! Messages as clients and peers of a homeserver send them, with what is to be found in them.

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What it is.
    pub name: &'static str,
    /// Its bytes, up to and including the empty line.
    pub head: &'static [u8],
    /// Length of the request target in bytes.
    pub target_bytes: usize,
    /// Field lines.
    pub field_count: usize,
    /// Bytes of lines that are not passed on (`Connection`).
    pub dropped_bytes: usize,
}

/// The kinds of requests that make up most of the traffic.
pub const REQUESTS: [Request; 5] = [
    // A long poll of a web client, with what a browser adds.
    Request {
        name: "sync",
        head: b"GET /_matrix/client/v3/sync?filter=0&timeout=30000&set_presence=online&since=s72595_4483_1934_1_2_3 \
HTTP/1.1\r\nHost: matrix.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 \
Firefox/128.0\r\nAccept: application/json\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, \
zstd\r\nReferer: https://app.element.example/\r\nAuthorization: Bearer syt_YWxpY2U_bXlzZWNyZXR0b2tlbg_1aB2cD\r\n\
Origin: https://app.element.example\r\nConnection: keep-alive\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\n\
Sec-Fetch-Site: cross-site\r\nPriority: u=4\r\n\r\n",
        target_bytes: 95,
        field_count: 13,
        dropped_bytes: 24,
    },
    // A transaction of a federation peer, signed with two keys.
    Request {
        name: "federation_send",
        head: b"PUT /_matrix/federation/v1/send/1764000000000 HTTP/1.1\r\nHost: matrix-fed.example.com:8448\r\n\
User-Agent: Synapse/1.142.0\r\nContent-Type: application/json\r\nContent-Length: 1843\r\nAuthorization: X-Matrix \
origin=\"remote.example\",key=\"ed25519:a_AbCd\",sig=\"q3b0Zl1Yw1t7Jb9v7m3cS2H5yqN8y1Zt0kP4nq7xE2uVb6dWg\",destination=\
\"example.com\"\r\nAuthorization: X-Matrix origin=\"remote.example\",key=\"ed25519:b_EfGh\",sig=\
\"Zt0kP4nq7xE2uVb6dWgq3b0Zl1Yw1t7Jb9v7m3cS2H5yqN8y1\",destination=\"example.com\"\r\n\r\n",
        target_bytes: 41,
        field_count: 6,
        dropped_bytes: 0,
    },
    // Signing keys, asked for by a notary.
    Request {
        name: "key_query",
        head: b"GET /_matrix/key/v2/server HTTP/1.1\r\nHost: matrix-fed.example.com:8448\r\nUser-Agent: Dendrite/0.15.2\r\n\
Accept-Encoding: gzip\r\nConnection: close\r\n\r\n",
        target_bytes: 22,
        field_count: 4,
        dropped_bytes: 19,
    },
    // A picture from a web client.
    Request {
        name: "media_upload",
        head: b"POST /_matrix/media/v3/upload?filename=IMG_20260114_181530%20%281%29.jpg HTTP/1.1\r\n\
Host: matrix.example.com\r\nUser-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like \
Gecko) Chrome/142.0.0.0 Safari/537.36\r\nContent-Length: 4718592\r\nsec-ch-ua-platform: \"macOS\"\r\n\
Authorization: Bearer syt_Ym9i_dXBsb2FkaW5nYXRva2Vu_3eF4gH\r\nsec-ch-ua: \"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\n\
Content-Type: image/jpeg\r\nsec-ch-ua-mobile: ?0\r\nAccept: */*\r\nOrigin: https://app.element.example\r\n\
Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://app.element.example/\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: de-DE,de;q=0.9,en;q=0.8\r\nConnection: keep-alive\r\n\r\n",
        target_bytes: 67,
        field_count: 17,
        dropped_bytes: 24,
    },
    // A download by a mobile client.
    Request {
        name: "media_download",
        head: b"GET /_matrix/client/v1/media/download/example.com/AbCdEfGhIjKlMnOpQrStUvWx?timeout_ms=20000 \
HTTP/1.1\r\nauthorization: Bearer syt_Ym9i_ZG93bmxvYWRpbmdhdG9rZW4_3eF4gH\r\nuser-agent: Element X/25.11.0 (Pixel 8; \
Android 15)\r\naccept-encoding: gzip\r\nhost: matrix.example.com\r\nrange: bytes=0-\r\n\r\n",
        target_bytes: 87,
        field_count: 5,
        dropped_bytes: 0,
    },
];

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// What it is.
    pub name: &'static str,
    /// Its bytes, up to and including the empty line.
    pub head: &'static [u8],
    /// Its status code.
    pub status: u16,
    /// Field lines.
    pub field_count: usize,
    /// Bytes of lines that are not passed on.
    pub dropped_bytes: usize,
}

/// What Synapse answers, and what Palpo does.
pub const RESPONSES: [Response; 2] = [
    Response {
        name: "synapse_json",
        head: b"HTTP/1.1 200 OK\r\nServer: Synapse/1.142.0\r\nDate: Wed, 14 Jan 2026 18:15:30 GMT\r\n\
Content-Type: application/json\r\nCache-Control: no-cache, no-store, must-revalidate\r\nContent-Length: 1207\r\n\
Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n\
Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n\
Access-Control-Expose-Headers: Synapse-Trace-Id, Server\r\n\r\n",
        status: 200,
        field_count: 9,
        dropped_bytes: 0,
    },
    Response {
        name: "palpo_chunked",
        head: b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\naccess-control-allow-origin: *\r\n\
access-control-allow-headers: X-Requested-With,Content-Type,Authorization,Range\r\ntransfer-encoding: chunked\r\n\
date: Wed, 14 Jan 2026 18:15:30 GMT\r\n\r\n",
        status: 200,
        field_count: 5,
        dropped_bytes: 28,
    },
];

/// Request heads that say in different ways how their body ends, and nothing else (RFC 9112 §6.3).
pub const FRAMINGS: [(&str, &[u8]); 3] = [
    ("none", b"PUT /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n"),
    (
        "content_length",
        b"PUT /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: 4718592\r\n\r\n",
    ),
    ("chunked", b"PUT /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"),
];

/// A configuration as most operators have it, and one route of the operator's own.
pub const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:8008"
tls = false
role = "client"
[[homeserver]]
server_name = "example.com"
public_host = "matrix.example.com"
federation_host = "matrix-fed.example.com"
upstream = "http://127.0.0.1:8010"
[[route]]
path = "/admin-ui"
upstream = "http://127.0.0.1:8011"
"#;
