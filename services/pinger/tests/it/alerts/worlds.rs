//! Pairs of services, each with a fault.

use std::{
    any::Any,
    io::{self, BufRead as _, BufReader},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use chassis::{
    config::HumanDuration,
    tls::{ALPN, REJECTION_PROBE_ALPN, server::ClientAuth},
};
use pinger::{config::EndpointSelection, resolver::Resolver};
use testkit::{Ca, CertDir, Issued, Leaf, client::TlsClient, prometheus::Target};
use time::Duration as Validity;

use crate::support::{Env, Pinger, Ponger, install};

/// The longest pause of each pinger before a ping.
const INTERVAL: HumanDuration = HumanDuration(Duration::from_millis(200));

/// A pair of services in a namespace of its own, and the alerts that its fault raises there.
pub(super) struct World {
    pub(super) name: &'static str,
    pub(super) alerts: &'static [&'static str],
    pub(super) env: Env,
    pub(super) ponger: Option<Ponger>,
    pub(super) pinger: Pinger,
    /// A pinger on another node.
    other_pinger: Option<Pinger>,
    /// Further clients of ponger, stopped with this value.
    pub(super) clients: Vec<Box<dyn Any>>,
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
        config.interval = INTERVAL;
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

    pub(super) fn with_leaf_of_ponger(
        name: &'static str,
        alerts: &'static [&'static str],
        leaf: &Leaf,
    ) -> Self {
        let env = Env::new();
        env.issue_ponger(leaf);
        Self::start(name, alerts, env, |_| {}, |_, _, _| {})
    }

    pub(super) fn healthy(name: &'static str, alerts: &'static [&'static str]) -> Self {
        Self::with_leaf_of_ponger(name, alerts, &Leaf::ponger("test"))
    }

    pub(super) fn ponger(&self) -> &Ponger {
        self.ponger.as_ref().unwrap()
    }

    pub(super) fn targets(&self) -> Vec<Target> {
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
        config.interval = INTERVAL;
        config.ponger.client_certificate = Some(dir.file("tls.crt"));
        config.ponger.client_private_key = Some(dir.file("tls.key"));
        self.clients.push(Box::new(self.env.start_pinger(&config)));
    }
}

/// ponger stops while it is watched.
pub(super) fn stopped() -> World {
    World::healthy(
        "stopped",
        &[
            "PingPongLossFastBurn",
            "PingPongLossSlowBurn",
            "PingPongNoPong",
            "PingPongRejectionProbeInconclusive",
            "PingPongTargetDown",
        ],
    )
}

/// A client of the trusted CA is not one of those that ponger allows.
pub(super) fn denied() -> World {
    let mut world = World::healthy("denied", &["PingPongRequestsDenied"]);
    let leaf = Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other");
    world.add_client(&world.env.ca.issue(&leaf));
    world
}

/// A client has a certificate of another CA.
pub(super) fn untrusted() -> World {
    let mut world = World::healthy("untrusted", &["PingPongHandshakesRejected"]);
    world.add_client(&Ca::new("untrusted").issue(&Leaf::pinger("test")));
    world
}

/// Between a quarter and a tenth of the life of ponger's certificate is left.
pub(super) fn overdue() -> World {
    let leaf = Leaf::ponger("test").valid(-Validity::hours(10), Validity::hours(2));
    World::with_leaf_of_ponger("overdue", &["PingPongCertificateRenewalOverdue"], &leaf)
}

/// Less than a tenth is left.
pub(super) fn expiring() -> World {
    let leaf = Leaf::ponger("test").valid(-Validity::hours(50), Validity::hours(2));
    let alerts = &["PingPongCertificateRenewalOverdue", "PingPongCertificateAboutToExpire"];
    World::with_leaf_of_ponger("expiring", alerts, &leaf)
}

/// Nothing listens at one of two endpoints.
pub(super) fn endpoint() -> World {
    World::start(
        "endpoint",
        &["PingPongEndpointFailing", "PingPongLossFastBurn", "PingPongLossSlowBurn"],
        Env::new(),
        |_| {},
        |_, _, pinger| pinger.ponger.endpoints = EndpointSelection::All,
    )
}

/// From one of two nodes, no ping arrives.
pub(super) fn node() -> World {
    let mut world = World::healthy(
        "node",
        &["PingPongNodeFailing", "PingPongLossFastBurn", "PingPongLossSlowBurn", "PingPongNoPong"],
    );
    let mut config = world.env.pinger_config(([127, 0, 0, 1], 1).into());
    config.interval = INTERVAL;
    world.other_pinger = Some(world.env.start_pinger(&config));
    world
}

/// The root in the trust bundles expires soon.
pub(super) fn old_root() -> World {
    let mut env = Env::new();
    env.ca = Ca::valid("old", -Validity::days(100), Validity::days(5));
    env.issue_ponger(&Leaf::ponger("test"));
    env.issue_pinger(&Leaf::pinger("test"));
    World::start("old-root", &["PingPongRootExpiresSoon"], env, |_| {}, |_, _, _| {})
}

/// pinger's first pause has not ended.
pub(super) fn silent() -> World {
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
pub(super) fn slow() -> World {
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
pub(super) fn lenient() -> World {
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
pub(super) fn crowded() -> World {
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
pub(super) fn disguised() -> World {
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
pub(super) struct Unread {
    process: Child,
    _log: BufReader<std::process::ChildStdout>,
    admin: SocketAddr,
}

impl Unread {
    pub(super) const NAME: &str = "unread";
    pub(super) const ALERTS: &[&str] = &["PingPongLogLinesDropped"];

    pub(super) fn start(env: &Env, ponger: &Ponger) -> Self {
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

    pub(super) fn target(&self) -> Target {
        Target { namespace: Self::NAME.into(), node: "one", job: "pinger", admin: self.admin }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
