//! How pinger and ponger authenticate each other.

use chassis::config::MinTlsVersion;
use testkit::Leaf;

use crate::support::{
    Env, PONGER_ID, expiration, pings, pong_forever, server_tls, server_tls_of, wait_for_further,
};

#[test]
fn negotiates_tls_1_3_with_the_post_quantum_group() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    let line = pinger.wait_for("Got pong");
    let peer = format!("peer=\"{PONGER_ID}\"");
    for part in ["version=\"TLSv1.3\"", "group=\"X25519MLKEM768\"", "kind=\"full\"", &peer] {
        assert!(line.contains(part), "{part}: {line}");
    }
    pinger.wait_for_metric(
        "tls_handshakes_total{cipher=\"TLS13_AES_256_GCM_SHA384\",group=\"X25519MLKEM768\",kind=\"full\",version=\"TLSv1.3\"}",
        1.0,
    );
    pinger.wait_for_metric(&format!("tls_peers_total{{peer=\"{PONGER_ID}\"}}"), 1.0);
}

#[test]
fn accepts_tls_1_2_only_where_configured() {
    let env = Env::new();
    let issued = env.ca.issue(&Leaf::ponger("test"));
    let tls = server_tls_of(&[&rustls::version::TLS12], &issued, Some(&env.ca));
    let address = env.serve(move |tcp| pong_forever(&tls, tcp));
    let mut config = env.pinger_config(address);
    let pinger = env.start_pinger(&config);
    pinger.wait_for_metric(&pings("tls_refused_by_peer"), 1.0);
    let line = pinger.wait_for("Lost ping");
    assert!(line.contains("supports no TLS version that is allowed here"), "{line}");
    config.ponger.min_tls_version = MinTlsVersion::V1_2;
    config.count = 2;
    assert_eq!(env.start_pinger(&config).wait().unwrap().pongs(), 2);
}

#[test]
fn pings_by_name_and_by_address() {
    let env = Env::new();
    env.issue_ponger(&Leaf::ponger("test").ip([127, 0, 0, 1].into()));
    let ponger = env.start_ponger(&env.ponger_config());
    for host in ["localhost", "127.0.0.1"] {
        let mut config = env.pinger_config(ponger.address);
        config.ponger.url = Some(format!("https://{host}:{}", ponger.address.port()));
        config.ponger.server_name = None;
        config.count = 1;
        assert_eq!(env.start_pinger(&config).wait().unwrap().pongs(), 1, "{host}");
    }
}

#[test]
fn pings_without_a_certificate_where_ponger_does_not_ask_for_one() {
    let env = Env::new();
    let mut config = env.ponger_config();
    config.service.client_ca = None;
    config.service.allowed_clients.clear();
    let ponger = env.start_ponger(&config);
    let mut config = env.pinger_config(ponger.address);
    config.ponger.client_certificate = None;
    config.ponger.client_private_key = None;
    let pinger = env.start_pinger(&config);
    pinger.wait_for_metric(&pings("pong"), 1.0);
    assert!(pinger.metric(&expiration("peer")) > 0.0);
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
}

#[test]
fn pings_over_plain_http_where_insecure() {
    let env = Env::new();
    let mut config = ponger::Config { insecure: true, ..env.ponger_config() };
    config.service = ponger::config::Service {
        host: config.service.host,
        port: 0,
        ..ponger::config::Service::default()
    };
    let ponger = env.start_ponger(&config);
    let mut config =
        pinger::Config { insecure: true, count: 3, ..env.pinger_config(ponger.address) };
    config.ponger = pinger::config::Ponger {
        url: Some(format!("http://{}", ponger.address)),
        ..pinger::config::Ponger::default()
    };
    assert_eq!(env.start_pinger(&config).wait().unwrap().pongs(), 3);
}

#[test]
fn reports_denial_of_an_id_that_is_not_allowed() {
    let env = Env::new();
    env.issue_pinger(&Leaf::pinger("another"));
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(&pings("denied"), 1.0);
    let line = pinger.wait_for("Lost ping");
    assert!(line.contains("spiffe://cluster.local/ns/another/sa/pinger"), "{line}");
}

#[test]
fn presents_a_certificate_with_a_common_name_alone_which_ponger_denies() {
    let env = Env::new();
    env.issue_pinger(&Leaf::new().common_name("pinger"));
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), Some(&env.ca));
    let another_service = env.serve(move |tcp| pong_forever(&tls, tcp));
    let pinger = env.start_pinger(&env.pinger_config(another_service));
    wait_for_further(&pinger, "pong", 2);
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(&pings("denied"), 1.0);
    let line = pinger.wait_for("Lost ping");
    assert!(line.contains("the certificate has neither a URI nor a DNS name"), "{line}");
}

#[test]
fn keeps_a_certificate_with_an_id_rather_than_replace_it_by_one_without() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    wait_for_further(&pinger, "pong", 1);
    env.issue_pinger(&Leaf::new().common_name("pinger"));
    pinger
        .wait_for_metric("identity_refreshes_total{result=\"rejected\",unit=\"certificate\"}", 1.0);
    wait_for_further(&pinger, "pong", 2);
    assert_eq!(pinger.stop().unwrap().lost(), 0);
}
