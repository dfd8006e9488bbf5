use super::*;
use crate::simulation::rng::Rng;

/// A header of version 2 from its parts.
fn binary_header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn addition(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// A header with these additions and a checksum that is right.
fn checked_header(additions: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 1, 187];
    let block = [&addresses, additions, &addition(CHECKSUM, &[0; 4])].concat();
    let mut header = binary_header(PROXY, INET_STREAM, &block);
    let checksum = crc32c(header.iter()).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&checksum);
    header
}

fn valid_headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let four = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 1, 187];
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0, 80, 1, 187]].concat();
    let mapped = [&[0; 10][..], &[255, 255, 192, 0, 2, 1], &[0; 16], &[0, 80, 1, 187]].concat();
    let line = |text: &str| format!("{text}\r\n").into_bytes();
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    vec![
        (line("PROXY TCP4 192.0.2.1 198.51.100.1 4660 443"), Some("192.0.2.1:4660")),
        (line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535"), Some("255.255.255.255:65535")),
        (line("PROXY TCP4 0.0.0.0 0.0.0.0 0 0"), Some("0.0.0.0:0")),
        (line("PROXY TCP6 2001:db8::1 :: 80 443"), Some("[2001:db8::1]:80")),
        (line("PROXY TCP6 2001:DB8::1 ::1 80 443"), Some("[2001:db8::1]:80")),
        (line("PROXY TCP6 ::ffff:192.0.2.1 ::1 80 443"), Some("192.0.2.1:80")),
        (
            line(&format!("PROXY TCP6 {longest} {longest} 65535 65535")),
            Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        (line("PROXY UNKNOWN"), None),
        (line(&format!("PROXY UNKNOWN {longest} {longest} 65535 65535")), None),
        (b"PROXY UNKNOWN \0\xff whatever\r\n".to_vec(), None),
        (binary_header(PROXY, INET_STREAM, &four), Some("192.0.2.1:4660")),
        (binary_header(PROXY, INET6_STREAM, &six), Some("[2001:db8::1]:80")),
        (binary_header(PROXY, INET6_STREAM, &mapped), Some("192.0.2.1:80")),
        (binary_header(PROXY, 0x12, &four), None),
        (binary_header(PROXY, 0x22, &six), None),
        (binary_header(PROXY, 0x31, &[b'a'; 216]), None),
        (binary_header(PROXY, 0x00, b"whatever"), None),
        (binary_header(LOCAL, 0x00, b""), None),
        (binary_header(LOCAL, 0xff, b"whatever"), None),
        (
            binary_header(PROXY, INET_STREAM, &[&four[..], &addition(4, &[0; 300])].concat()),
            Some("192.0.2.1:4660"),
        ),
        (
            binary_header(PROXY, INET_STREAM, &[&four[..], &addition(4, &[1; 2017])].concat()),
            Some("192.0.2.1:4660"),
        ),
        (checked_header(b""), Some("192.0.2.1:4660")),
        (checked_header(&addition(1, b"h2")), Some("192.0.2.1:4660")),
    ]
}

#[test]
fn valid_headers_are_read_at_every_split_point_and_nothing_behind_them() {
    for (header, client) in valid_headers() {
        let client = client.map(|client| client.parse().unwrap());
        let expected = Ok(Some(Header { length: header.len(), client }));
        for behind in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\n", &header, &[0; 3000]] {
            let input = [&header[..], behind].concat();
            for end in 0..header.len() {
                assert_eq!(parse(&input[..end]), Ok(None), "{end} bytes of {}", header.escape_ascii());
            }
            for end in header.len()..=input.len().min(header.len() + 50) {
                assert_eq!(parse(&input[..end]), expected, "{}", header.escape_ascii());
            }
            assert_eq!(parse(&input), expected);
        }
    }
}

#[test]
fn malformed_lines_are_refused() {
    for line in [
        "GET / HTTP/1.1",
        "proxy TCP4 192.0.2.1 198.51.100.1 1 2",
        "PROXY",
        "PROXY ",
        "PROXY TCP4",
        "PROXY TCP5 192.0.2.1 198.51.100.1 1 2",
        "PROXY tcp4 192.0.2.1 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 ",
        "PROXY  TCP4 192.0.2.1 198.51.100.1 1 2",
        "PROXY TCP4  192.0.2.1 198.51.100.1 1 2",
        "PROXY\tTCP4 192.0.2.1 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.01 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.1 198.51.100 1 2",
        "PROXY TCP4 2001:db8::1 ::1 1 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1 01 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1 65536 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 65536",
        "PROXY TCP4 192.0.2.1 198.51.100.1 -1 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1  2",
        "PROXY TCP4 localhost 198.51.100.1 1 2",
        "PROXY TCP6 192.0.2.1 198.51.100.1 1 2",
        "PROXY TCP6 2001:db8::1::2 ::1 1 2",
        "PROXY TCP6 [2001:db8::1] ::1 1 2",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2",
        "PROXY TCP6 2001:db8::12345 ::1 1 2",
        "PROXY UNKNOWNS",
        "PROXY unknown",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\u{a0}",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN \r ",
    ] {
        assert_refused(format!("{line}\r\n").as_bytes());
    }
    assert_refused(format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 15)).as_bytes());
    assert!(parse(format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 16)).as_bytes()).is_ok());
}

#[test]
fn malformed_binary_headers_are_refused() {
    let four = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 1, 187];
    for (command, family, block) in [
        // Versions and commands.
        (0x11, INET_STREAM, &four[..]),
        (0x31, INET_STREAM, &four),
        (0x22, INET_STREAM, &four),
        (0x2f, INET_STREAM, &four),
        // Families and transports.
        (PROXY, 0x13, &four),
        (PROXY, 0x41, &four),
        (PROXY, 0xff, &four),
        (PROXY, 0x03, &four),
        // Too short for their addresses.
        (PROXY, INET_STREAM, &four[..11]),
        (PROXY, INET_STREAM, b""),
        (PROXY, INET6_STREAM, &[0; 35]),
        (PROXY, 0x31, &[0; 215]),
        // Additions that do not fill their room.
        (PROXY, INET_STREAM, &[&four[..], b"\x04"].concat()),
        (PROXY, INET_STREAM, &[&four[..], b"\x04\x00"].concat()),
        (PROXY, INET_STREAM, &[&four[..], b"\x04\x00\x05abcd"].concat()),
        (PROXY, INET_STREAM, &[&four[..], b"\x04\xff\xff"].concat()),
        // Checksums.
        (PROXY, INET_STREAM, &[&four[..], b"\x03\x00\x04\0\0\0\0"].concat()),
        (PROXY, INET_STREAM, &[&four[..], b"\x03\x00\x03\0\0\0"].concat()),
        // Longer than any.
        (LOCAL, 0, &[0; HEADER_BYTES_MAX - FIXED + 1]),
    ] {
        assert_refused(&binary_header(command, family, block));
    }
    let header = checked_header(b"");
    // But for the byte that says that it is a checksum.
    for at in (FIXED..header.len()).filter(|at| *at != header.len() - 7) {
        let mut changed = header.clone();
        changed[at] ^= 1;
        assert_refused(&changed);
    }
    assert_refused(&checked_header(&addition(CHECKSUM, &[0; 4])));
    assert_refused(b"\r\n\r\n\0\r\nQUIT\r");
}

/// It is refused at some point and from there on, and never before anything is wrong with it.
#[track_caller]
fn assert_refused(input: &[u8]) {
    let padded = [input, &[b'a'; 3000]].concat();
    let verdict = parse(&padded);
    assert!(verdict.is_err(), "{:?}: {verdict:?}", input.escape_ascii().to_string());
    assert_is_final(&padded[..input.len() + 200]);
    assert_eq!(reference::header(&padded), None, "{:?}", input.escape_ascii().to_string());
}

/// The verdict on `input` does not change from the byte on with which it was known.
fn assert_is_final(input: &[u8]) {
    // What exactly is wrong may become clearer.
    let verdicts: Vec<_> = (0..=input.len()).map(|end| parse(&input[..end]).map_err(drop)).collect();
    let known = verdicts.iter().position(|verdict| *verdict != Ok(None)).unwrap_or(verdicts.len());
    for (end, verdict) in verdicts.iter().enumerate().skip(known) {
        assert_eq!(*verdict, verdicts[known], "at {end} of {}", input.escape_ascii());
    }
    if let Some(Ok(Some(header))) = verdicts.get(known) {
        assert_eq!(header.length, known, "known before it was whole: {}", input.escape_ascii());
    }
}

/// Valid headers with some bytes changed, left out, doubled or swapped, against the oracle.
#[test]
fn changed_headers_are_read_as_the_oracle_reads_them() {
    let given = std::env::var("RINGFENCE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("RINGFENCE_SEED={seed}");
    let (rng, headers) = (Rng::new(seed), valid_headers());
    let mut sound = 0;
    for _ in 0..20_000 {
        let mut input = rng.pick(&headers).0.clone();
        for _ in 0..rng.below(4) {
            change(&rng, &mut input);
        }
        let end = input.len();
        input.resize(end + 2100, b'a');
        let expected = reference::header(&input);
        let found = parse(&input).ok().flatten().map(|header| (header.length, header.client));
        assert_eq!(found, expected, "{}", input[..end].escape_ascii());
        assert_is_final(&input[..(end + 110).min(500)]);
        sound += usize::from(expected.is_some());
    }
    println!("{sound} of 20000 were sound");
    assert!((4000..19_000).contains(&sound), "{sound}");
}

fn change(rng: &Rng, input: &mut Vec<u8>) {
    if input.is_empty() {
        return;
    }
    let (at, other) = (rng.below(input.len()), rng.below(input.len()));
    match rng.below(5) {
        0 => input[at] = *rng.pick(b"\r\n 0129.:afT\0\x03\x04\x10\x11\x20\x21\xff"),
        1 => input[at] ^= 1 << rng.below(8),
        2 => drop(input.remove(at)),
        3 => input.insert(at, input[other]),
        _ => input.swap(at, other),
    }
}

#[test]
fn the_checksum_is_that_of_the_standard() {
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c([0; 32].iter()), 0x8a91_36aa);
    assert_eq!(crc32c([255; 32].iter()), 0x62a8_ab43);
    assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
}

#[test]
fn what_is_sent_is_read_again() {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let four = header(address("192.0.2.1:4660"), address("198.51.100.1:443"));
    let block = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 1, 187];
    assert_eq!(four, binary_header(0x21, 0x11, &block));
    for (client, listener, bytes) in [
        ("192.0.2.1:1", "198.51.100.1:443", 28),
        ("192.0.2.1:1", "[::]:443", 28),
        ("192.0.2.1:1", "[::ffff:198.51.100.1]:443", 28),
        ("192.0.2.1:1", "[2001:db8::1]:443", 52),
        ("[2001:db8::2]:1", "[::]:443", 52),
        ("[2001:db8::2]:1", "198.51.100.1:443", 52),
    ] {
        let header = header(address(client), address(listener));
        assert_eq!(header.len(), bytes, "{client} {listener}");
        assert_eq!(parse(&header), Ok(Some(Header { length: bytes, client: Some(address(client)) })));
    }
}
