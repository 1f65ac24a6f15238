//! Each alert of `k8s/components/monitoring` in a running system: a real Prometheus scrapes pairs of
//! services, each with a fault, and a minute of its rules lasts a second.

use std::{
    any::Any,
    collections::BTreeSet,
    fs,
    io::{self, BufRead as _, BufReader},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use chassis::{
    config::HumanDuration,
    tls::{ALPN, REJECTION_PROBE_ALPN, server::ClientAuth},
};
use pinger::{config::EndpointSelection, resolver::Resolver};
use testkit::{
    Ca, CertDir, Issued, Leaf, PATIENCE,
    client::TlsClient,
    process::is_installed,
    prometheus::{Prometheus, Target},
    wait_until,
};
use time::Duration as Validity;

use crate::support::{Env, Pinger, Ponger, install, ms, pings};

/// The alert of a job that Prometheus does not know.
const ABSENT: &str = "PingPongTargetAbsent";

/// How often Prometheus scrapes and evaluates.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(500);

/// A pair of services in a namespace of its own, and the alerts that its fault raises there.
struct World {
    name: &'static str,
    alerts: &'static [&'static str],
    env: Env,
    ponger: Option<Ponger>,
    pinger: Pinger,
    /// A pinger on another node.
    other_pinger: Option<Pinger>,
    /// Further clients of ponger, stopped with this value.
    clients: Vec<Box<dyn Any>>,
}

impl World {
    /// Starts both services, with changes to their configurations.
    fn start(
        name: &'static str,
        alerts: &'static [&'static str],
        env: Env,
        change_ponger: impl FnOnce(&mut ponger::Config),
        change_pinger: impl FnOnce(&Env, &Ponger, &mut pinger::Config),
    ) -> Self {
        let mut config = env.ponger_config();
        change_ponger(&mut config);
        let ponger = env.start_ponger(&config);
        let mut config = env.pinger_config(ponger.address);
        config.interval = ms(200);
        config.rejection_probe.interval = HumanDuration::seconds(1);
        change_pinger(&env, &ponger, &mut config);
        // For what resolves names: another address, at which nothing listens.
        let addresses = [ponger.address.ip(), [127, 0, 0, 2].into()];
        let resolver = Resolver::new(move |_| Ok(addresses.to_vec()));
        let pinger = env.start_pinger_with(&config, resolver);
        Self {
            name,
            alerts,
            env,
            ponger: Some(ponger),
            pinger,
            other_pinger: None,
            clients: Vec::new(),
        }
    }

    fn with_leaf_of_ponger(
        name: &'static str,
        alerts: &'static [&'static str],
        leaf: &Leaf,
    ) -> Self {
        let env = Env::new();
        env.issue_ponger(leaf);
        Self::start(name, alerts, env, |_| {}, |_, _, _| {})
    }

    fn healthy(name: &'static str, alerts: &'static [&'static str]) -> Self {
        Self::with_leaf_of_ponger(name, alerts, &Leaf::ponger("test"))
    }

    fn ponger(&self) -> &Ponger {
        self.ponger.as_ref().unwrap()
    }

    fn targets(&self) -> Vec<Target> {
        let other = self.other_pinger.as_ref();
        [("one", "ponger", self.ponger().admin), ("one", "pinger", self.pinger.admin)]
            .into_iter()
            .chain(other.map(|other| ("two", "pinger", other.admin)))
            .map(|(node, job, admin)| Target { namespace: self.name.into(), node, job, admin })
            .collect()
    }

    /// Starts a further pinger, with this certificate, which Prometheus does not scrape.
    fn add_client(&mut self, issued: &Issued) {
        let dir = CertDir::create(self.env.dir.path().join("client")).unwrap();
        install(&dir, issued, self.env.ca.pem());
        let mut config = self.env.pinger_config(self.ponger().address);
        config.interval = ms(200);
        config.ponger.client_certificate = Some(dir.file("tls.crt"));
        config.ponger.client_private_key = Some(dir.file("tls.key"));
        self.clients.push(Box::new(self.env.start_pinger(&config)));
    }
}

/// Nothing listens at one of two endpoints.
fn endpoint() -> World {
    World::start(
        "endpoint",
        &["PingPongEndpointFailing", "PingPongLossFastBurn", "PingPongLossSlowBurn"],
        Env::new(),
        |_| {},
        |_, _, pinger| pinger.ponger.endpoints = EndpointSelection::All,
    )
}

/// From one of two nodes, no ping arrives.
fn node() -> World {
    let mut world = World::healthy(
        "node",
        &["PingPongNodeFailing", "PingPongLossFastBurn", "PingPongLossSlowBurn", "PingPongNoPong"],
    );
    let config = world.env.pinger_config(([127, 0, 0, 1], 1).into());
    world.other_pinger = Some(world.env.start_pinger(&config));
    world
}

/// The root in the trust bundles expires soon.
fn old_root() -> World {
    let mut env = Env::new();
    env.ca = Ca::valid("old", -Validity::days(100), Validity::days(5));
    env.issue_ponger(&Leaf::ponger("test"));
    env.issue_pinger(&Leaf::pinger("test"));
    World::start("old-root", &["PingPongRootExpiresSoon"], env, |_| {}, |_, _, _| {})
}

/// pinger's first pause has not ended.
fn silent() -> World {
    let interval = HumanDuration(Duration::from_secs(365 * 24 * 3600));
    World::start(
        "silent",
        &["PingPongNoPings", "PingPongNoPong"],
        Env::new(),
        |_| {},
        |_, _, pinger| pinger.interval = interval,
    )
}

/// What pinger sends reaches ponger after most of a second.
fn slow() -> World {
    World::start(
        "slow",
        &["PingPongPhaseSlow"],
        Env::new(),
        |_| {},
        |env, ponger, pinger| {
            let ponger = ponger.address;
            let relay = env.serve(move |client| relay_late(&client, ponger));
            pinger.ponger.url = env.pinger_config(relay).ponger.url;
        },
    )
}

fn relay_late(client: &TcpStream, server: SocketAddr) {
    thread::sleep(Duration::from_millis(700));
    let server = TcpStream::connect(server).unwrap();
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(&server, client));
        copy(client, &server);
    });
}

/// ponger accepts clients without a certificate.
fn lenient() -> World {
    World::start(
        "lenient",
        &["PingPongUntrustedClientAccepted"],
        Env::new(),
        |ponger| {
            ponger.service.client_auth = Some(ClientAuth::Optional);
            ponger.service.allow_anonymous = true;
        },
        |_, _, _| {},
    )
}

/// ponger serves two connections, of which pinger keeps one.
fn crowded() -> World {
    World::start(
        "crowded",
        &["PingPongConnectionLimitReached"],
        Env::new(),
        |ponger| ponger.service.max_connections = 2,
        |_, _, pinger| {
            pinger.ponger.keep_alive = HumanDuration::seconds(3600);
            pinger.rejection_probe.interval = HumanDuration::default();
        },
    )
}

/// A client without a certificate says that it is a rejection probe, more often than pinger is one.
fn disguised() -> World {
    let mut world = World::healthy(
        "disguised",
        &["PingPongHandshakesRejected", "PingPongRejectionProbesUnaccounted"],
    );
    let client = TlsClient::new(world.env.ca.pem(), None);
    let client = client.with_protocols(&[ALPN, REJECTION_PROBE_ALPN]);
    world.clients.push(Box::new(Repeated::start(client, world.ponger().address)));
    world
}

/// A client that connects again and again, until it is dropped.
struct Repeated(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Repeated {
    fn start(client: TlsClient, server: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let repeat = move || {
            while !stopped.load(Ordering::Acquire) {
                client.get(server, "/ping").unwrap_err();
                thread::sleep(Duration::from_millis(50));
            }
        };
        Self(stop, Some(thread::spawn(repeat)))
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

/// A pinger whose log is not read any more.
struct Unread {
    process: Child,
    _log: BufReader<std::process::ChildStdout>,
    admin: SocketAddr,
}

impl Unread {
    const NAME: &str = "unread";
    const ALERTS: &[&str] = &["PingPongLogLinesDropped"];

    fn start(env: &Env, ponger: &Ponger) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_pinger"))
            .current_dir(env.pinger.path())
            .env("PINGER__PONGER__URL", format!("https://{}", ponger.address))
            .env("PINGER__PONGER__SERVER_NAME", "localhost")
            .env("PINGER__PONGER__ACCEPT_CERT", "ca.crt")
            .env("PINGER__PONGER__CLIENT_CERTIFICATE", "tls.crt")
            .env("PINGER__PONGER__CLIENT_PRIVATE_KEY", "tls.key")
            .env("PINGER__PONGER__KEEP_ALIVE", "1m")
            .env("PINGER__INTERVAL", "1ms")
            .env("PINGER__LOG__LEVEL", "debug")
            .env("PINGER__METRICS__HOST", "127.0.0.1")
            .env("PINGER__METRICS__PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let admin = loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0);
            if let Some(admin) =
                line.split_whitespace().find_map(|word| word.strip_prefix("admin="))
            {
                break admin.parse().unwrap();
            }
        };
        Self { process, _log: log, admin }
    }

    fn target(&self) -> Target {
        Target { namespace: Self::NAME.into(), node: "one", job: "pinger", admin: self.admin }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The rules of the component, of which a minute lasts a second: what follows `for:` and `[`, and the age
/// of the last pong.
fn quick_rules() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/components/monitoring/rules.yaml");
    let mut rules = fs::read_to_string(Path::new(file)).unwrap();
    for (unit, seconds) in [("m", 1), ("h", 60), ("d", 24 * 60)] {
        for count in 1..60 {
            let (long, short) = (format!("{count}{unit}"), format!("{}s", count * seconds));
            rules = rules
                .replace(&format!("[{long}]"), &format!("[{short}]"))
                .replace(&format!("for: {long}\n"), &format!("for: {short}\n"));
        }
    }
    let last_pong = "pinger_last_success_timestamp_seconds > 60";
    assert!(rules.contains(last_pong));
    // Not a second, which a busy machine may take for a ping.
    rules.replace(last_pong, "pinger_last_success_timestamp_seconds > 5")
}

fn names_of_alerts(rules: &str) -> BTreeSet<&str> {
    rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect()
}

#[test]
#[ignore = "it takes half a minute and an idle machine; .ci/run runs it"]
fn each_fault_raises_its_alerts_and_no_others() {
    if !is_installed("prometheus") {
        return;
    }
    let rules = quick_rules();
    let healthy = World::healthy("healthy", &[]);
    let unread = Unread::start(&healthy.env, healthy.ponger());
    let mut stopped = World::healthy(
        "stopped",
        &[
            "PingPongLossFastBurn",
            "PingPongLossSlowBurn",
            "PingPongNoPong",
            "PingPongRejectionProbeInconclusive",
            "PingPongTargetDown",
        ],
    );
    let mut denied = World::healthy("denied", &["PingPongRequestsDenied"]);
    let mut untrusted = World::healthy("untrusted", &["PingPongHandshakesRejected"]);
    let broken = World::healthy("broken", &["PingPongReloadFailed"]);
    let valid = |from, to| Leaf::ponger("test").valid(Validity::hours(from), Validity::hours(to));
    let overdue = World::with_leaf_of_ponger(
        "overdue",
        &["PingPongCertificateRenewalOverdue"],
        &valid(-10, 2),
    );
    let expiring = World::with_leaf_of_ponger(
        "expiring",
        &["PingPongCertificateRenewalOverdue", "PingPongCertificateAboutToExpire"],
        &valid(-50, 2),
    );
    let (endpoint, node, old_root, silent, slow, lenient, disguised, mut crowded) =
        (endpoint(), node(), old_root(), silent(), slow(), lenient(), disguised(), crowded());

    let prometheus = Prometheus::start(&rules, SCRAPE_INTERVAL);
    let mut expected = BTreeSet::new();
    let mut targets = vec![unread.target()];
    expected.extend(Unread::ALERTS.iter().map(|alert| (Unread::NAME.to_owned(), (*alert).into())));
    for world in [
        &healthy, &stopped, &denied, &untrusted, &broken, &overdue, &expiring, &endpoint, &node,
        &old_root, &silent, &slow, &lenient, &disguised, &crowded,
    ] {
        if world.name != silent.name {
            world.pinger.wait_for_metric(&pings("pong"), 1.0);
        }
        targets.extend(world.targets());
        expected.extend(world.alerts.iter().map(|alert| (world.name.to_owned(), (*alert).into())));
    }
    prometheus.scrape(&targets);
    let all = [f64::from(u32::try_from(targets.len()).unwrap())];
    wait_until("all are scraped", || (prometheus.query("count(up == 1)") == all).then_some(()));

    stopped.ponger.take().unwrap().stop().unwrap();
    let other = denied.env.ca.issue(&Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other"));
    denied.add_client(&other);
    untrusted.add_client(&Ca::new("untrusted").issue(&Leaf::pinger("test")));
    broken.env.ponger.replace(&[("tls.crt", b"broken")]).unwrap();
    for _ in 0..10 {
        let client = TcpStream::connect(crowded.ponger().address).unwrap();
        crowded.clients.push(Box::new(client));
    }

    let mut fired = BTreeSet::new();
    let deadline = Instant::now() + 3 * PATIENCE;
    while !expected.is_subset(&fired) && Instant::now() < deadline {
        thread::sleep(SCRAPE_INTERVAL);
        fired.append(&mut prometheus.firing_alerts());
    }
    assert_eq!(fired, expected);

    // Its alert can tell nothing of a namespace.
    targets.retain(|target| target.job != "pinger");
    prometheus.scrape(&targets);
    let absent = (String::new(), ABSENT.to_owned());
    wait_until(ABSENT, || prometheus.firing_alerts().contains(&absent).then_some(()));
    prometheus.stop();

    let mut provoked: BTreeSet<_> = fired.iter().map(|(_, alert)| alert.as_str()).collect();
    provoked.insert(ABSENT);
    assert_eq!(provoked, names_of_alerts(&rules));
}
