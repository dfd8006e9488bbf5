use super::*;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group;

#[test]
fn a_handshake_does_not_depend_on_read_boundaries() {
    let (authority, config) = server();
    for (version, expected) in [(TLS12, Version::Tls12), (TLS13, Version::Tls13)] {
        for len in [1, 2, 3, 5, 7, 64, 1000, usize::MAX] {
            let mut pair = Pair::new(client(&authority, &[version]), &config);
            assert!(pair.server.session.is_handshaking() && pair.server.session.version().is_none());
            pair.pump_in(|| len).unwrap();
            assert_eq!(pair.server.session.state(), SessionState::Open, "{expected:?} by {len}");
            assert_eq!(pair.server.session.version(), Some(expected));
            assert!(!pair.server.session.resumed());
            assert!(pair.server.incoming.is_empty() && !pair.client.is_handshaking());
        }
    }
}

#[test]
fn a_handshake_can_be_cut_at_any_single_byte() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let hello_len = written_by(&mut Pair::new(client(&authority, &[version]), &config).client).len();
        for first in 1..hello_len {
            let mut pair = Pair::new(client(&authority, &[version]), &config);
            let mut lens = [first].into_iter();
            pair.pump_in(|| lens.next().unwrap_or(usize::MAX)).unwrap();
            assert_eq!(pair.server.session.state(), SessionState::Open, "cut at {first}");
        }
    }
}

#[test]
fn handshake_messages_in_small_records_are_joined() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        for len in [1, 100, usize::MAX] {
            let mut settings = client(&authority, &[version]);
            settings.max_fragment_size = Some(40);
            let mut pair = Pair::new(settings, &config);
            pair.pump_in(|| len).unwrap();
            assert_eq!(pair.server.session.state(), SessionState::Open);
        }
    }
}

#[test]
fn both_versions_on_offer_give_1_3_with_the_hybrid_group() {
    let (authority, config) = server();
    let pair = Pair::connected(client(&authority, &[TLS12, TLS13]), &config);
    assert_eq!(pair.server.session.version(), Some(Version::Tls13));
    assert_eq!(pair.server.session.version().map(Version::as_str), Some("1.3"));
    assert_eq!(pair.server.session.key_exchange_group(), Some(NamedGroup::X25519MLKEM768));
}

#[test]
fn a_client_without_the_hybrid_group_gets_its_own() {
    let (authority, config) = server();
    for (group, name) in
        [(kx_group::X25519, NamedGroup::X25519), (kx_group::SECP384R1, NamedGroup::secp384r1)]
    {
        let mut only = rustls::crypto::aws_lc_rs::default_provider();
        only.kx_groups = vec![group];
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let settings = ClientConfig::builder_with_provider(Arc::new(only))
            .with_protocol_versions(&[TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let pair = Pair::connected(settings, &config);
        assert_eq!(pair.server.session.key_exchange_group(), Some(name));
    }
}

#[test]
fn a_ticket_resumes_a_session_in_another_session_of_the_same_configuration() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut settings = client(&authority, &[version]);
        settings.resumption = Resumption::in_memory_sessions(8);
        assert!(!Pair::connected(settings.clone(), &config).server.session.resumed());
        // Two tickets came; each resumption of 1.3 uses one up and brings new ones.
        for _ in 0..4 {
            let mut pair = Pair::connected(settings.clone(), &config);
            assert!(pair.server.session.resumed());
            pair.server.send(b"again");
            pair.pump();
            assert_eq!(pair.client_data, b"again");
        }
    }
}

#[test]
fn tickets_of_another_configuration_lead_to_a_full_handshake() {
    let authority = Authority::root();
    let certificate = authority.certificate(&["example.com"]);
    let before = server_config(vec![certificate.clone()]).unwrap();
    let after = server_config(vec![certificate]).unwrap();
    for version in [TLS12, TLS13] {
        let mut settings = client(&authority, &[version]);
        settings.resumption = Resumption::in_memory_sessions(8);
        Pair::connected(settings.clone(), &before);
        assert!(!Pair::connected(settings.clone(), &after).server.session.resumed());
        assert!(Pair::connected(settings.clone(), &after).server.session.resumed());
    }
}

#[test]
fn aes_128_is_taken_of_clients_that_like_some_aes_best_and_else_their_first() {
    use rustls::CipherSuite as S;
    let cases: [(_, &[S], S); 10] = [
        (TLS13, &[S::TLS13_AES_256_GCM_SHA384, S::TLS13_AES_128_GCM_SHA256], S::TLS13_AES_128_GCM_SHA256),
        (TLS13, &[S::TLS13_AES_128_GCM_SHA256, S::TLS13_AES_256_GCM_SHA384], S::TLS13_AES_128_GCM_SHA256),
        (TLS13, &[S::TLS13_AES_256_GCM_SHA384], S::TLS13_AES_256_GCM_SHA384),
        (
            TLS13,
            &[S::TLS13_AES_256_GCM_SHA384, S::TLS13_CHACHA20_POLY1305_SHA256],
            S::TLS13_AES_256_GCM_SHA384,
        ),
        (
            TLS13,
            &[S::TLS13_CHACHA20_POLY1305_SHA256, S::TLS13_AES_128_GCM_SHA256],
            S::TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (TLS13, &[S::TLS13_CHACHA20_POLY1305_SHA256], S::TLS13_CHACHA20_POLY1305_SHA256),
        (
            TLS12,
            &[S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256],
            S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        // The first that is known decides, and not the first of those that the certificate goes with.
        (
            TLS12,
            &[
                S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            ],
            S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            TLS12,
            &[S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256],
            S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (TLS12, &[S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384], S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ];
    let (authority, config) = server();
    for (version, offered, expected) in cases {
        let mut provider = CryptoProvider::clone(&provider());
        let known = std::mem::take(&mut provider.cipher_suites);
        let named = |name: &S| *known.iter().find(|suite| suite.suite() == *name).unwrap();
        provider.cipher_suites = offered.iter().map(named).collect();
        let settings = client_with(Arc::new(provider), &authority, &[version]);
        // A handshake in full, and a resumed one.
        for round in 0..2 {
            let pair = Pair::connected(settings.clone(), &config);
            assert_eq!(pair.client.negotiated_cipher_suite().unwrap().suite(), expected, "{offered:?}");
            assert_eq!(pair.server.session.resumed(), round > 0, "{offered:?}");
        }
    }
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let authority = Authority::root();
    let names: [&[&str]; 3] = [&["default.test", "192.0.2.1"], &["*.example.com"], &["matrix.example.com"]];
    let certificates: Vec<_> = names.iter().map(|names| authority.certificate(names)).collect();
    let leaves: Vec<_> = certificates.iter().map(|one| one.clone().into_key().cert[0].clone()).collect();
    let config = server_config(certificates).unwrap();
    let asked = [
        ("matrix.example.com", 2),
        ("MATRIX.example.com", 2),
        ("other.example.com", 1),
        ("default.test", 0),
        // An address is never sent as a server name (RFC 6066 §3): the default.
        ("192.0.2.1", 0),
    ];
    for (name, expected) in asked {
        for version in [TLS12, TLS13] {
            let mut pair = Pair::named(client(&authority, &[version]), name, &config);
            pair.pump();
            assert_eq!(pair.client.peer_certificates().unwrap()[0], leaves[expected], "{name}");
        }
    }
}

#[test]
fn alpn_agrees_on_http_1_1_or_on_nothing() {
    let (authority, config) = server();
    let offers: [&[&[u8]]; 3] = [&[], &[b"http/1.1"], &[b"h2", b"http/1.1"]];
    for offer in offers {
        for version in [TLS12, TLS13] {
            let mut settings = client(&authority, &[version]);
            settings.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
            let pair = Pair::connected(settings, &config);
            let expected = if offer.is_empty() { None } else { Some(&b"http/1.1"[..]) };
            assert_eq!(pair.client.alpn_protocol(), expected);
        }
    }
}

#[test]
fn a_client_hello_of_12_kib_is_accepted_however_it_is_cut() {
    let (authority, config) = server();
    for fragment in [None, Some(64), Some(1000)] {
        let mut settings = client(&authority, &[TLS13]);
        settings.max_fragment_size = fragment;
        settings.alpn_protocols = (0..600).map(|index| format!("protocol-{index:09}").into_bytes()).collect();
        settings.alpn_protocols.push(b"http/1.1".to_vec());
        let mut pair = Pair::new(settings, &config);
        pair.pump_in(|| 777).unwrap();
        assert_eq!(pair.server.session.state(), SessionState::Open);
    }
}
