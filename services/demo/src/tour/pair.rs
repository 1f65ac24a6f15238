//! Both services of a step, in this process, with certificates of their own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use chassis::{
    config::HumanDuration,
    metrics::Metrics,
    signals::Signals,
    tls::clock::{Clock, from_timestamp},
};
use testkit::{
    Ca, CertDir, Issued, Leaf,
    client::{metric, plain_exchange},
    clock::ManualClock,
};
use time::Duration as Validity;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::steps::Step;

/// How long a step may take before it has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long pinger waits for a pong; the step with a late answer takes as long. A busy machine may
/// need a second for a handshake.
const PING_TIMEOUT: HumanDuration = HumanDuration::seconds(5);

/// How often the services read their files: by a signal alone.
const NEVER: HumanDuration = HumanDuration::seconds(24 * 3600);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What a step may change of a pair that works.
pub(super) struct Settings {
    /// The root of ponger's certificate, in both trust bundles.
    pub(super) root: Ca,
    pub(super) other_root: Ca,
    /// pinger's certificate.
    pub(super) client: Option<Issued>,
    /// Whether pinger speaks HTTP without TLS.
    pub(super) plain_http: bool,
    /// What ponger is made to do, as part of the JSON that it takes.
    pub(super) fault: Option<&'static str>,
    /// How far pinger's clock is behind.
    pub(super) clock_behind: Duration,
    /// Whether ponger trusts the other root too, until the first pong.
    pub(super) revokes_other_root: bool,
}

impl Settings {
    fn new() -> Self {
        let root = |name| Ca::valid(name, -Validity::DAY, Validity::DAY);
        let (root, other_root) = (root("the root"), root("another root"));
        let client = Some(root.issue(&pinger_leaf()));
        Self {
            root,
            other_root,
            client,
            plain_http: false,
            fault: None,
            clock_behind: Duration::ZERO,
            revokes_other_root: false,
        }
    }
}

/// The contents of pinger's certificate.
pub(super) fn pinger_leaf() -> Leaf {
    Leaf::pinger("demo").client_only().valid(-Validity::DAY, Validity::DAY)
}

/// Both services, bound and not yet running.
pub(super) struct Pair {
    step: &'static Step,
    settings: Settings,
    /// ponger's trust bundle.
    bundle: CertDir,
    ponger: ponger::Application,
    pinger: pinger::Application,
}

impl Pair {
    /// Issues the certificates, writes them to `dir`, and binds both services.
    pub(super) fn bind(step: &'static Step, dir: &Path) -> anyhow::Result<Self> {
        let mut settings = Settings::new();
        (step.change)(&mut settings);
        let bundle = CertDir::create(dir.join("bundle"))?;
        let mut roots = settings.root.pem().to_owned();
        if settings.revokes_other_root {
            roots += settings.other_root.pem();
        }
        bundle.replace(&[("ca.crt", roots.as_bytes())])?;
        let ponger = ponger::Application::build(&ponger_config(&settings, dir, &bundle)?)?;
        let clock = ManualClock::new();
        let now = clock.now().as_secs() - settings.clock_behind.as_secs();
        clock.set(from_timestamp(now.try_into()?));
        let config = pinger_config(&settings, dir, ponger.address()?.port())?;
        let pinger = pinger::Application::build_with_clock(&config, Clock::new(Arc::new(clock)))?;
        Ok(Self { step, settings, bundle, ponger, pinger })
    }

    /// Runs both until they have counted what they must.
    ///
    /// # Errors
    /// When they count something else, or when `interrupted` returns the reason for that.
    pub(super) async fn run(
        self,
        interrupted: impl Future<Output = &'static str>,
    ) -> anyhow::Result<()> {
        let Self { step, settings, bundle, ponger, pinger } = self;
        let (admin, counted) = (ponger.admin_address()?, ponger.metrics().clone());
        let (ponger_signals, signals) = Signals::channel();
        let mut ponger = actix_web::rt::spawn(ponger.run_until_stopped(signals));
        let story = async {
            if let Some(fault) = settings.fault {
                begin_fault(admin, fault).await?;
            }
            let results = pinger.metrics().clone();
            let (pinger_signals, signals) = Signals::channel();
            let watching = async {
                if settings.revokes_other_root {
                    wait_for(|| pinger_results(&results).contains(&"pong".into())).await;
                    bundle.replace(&[("ca.crt", settings.root.pem().as_bytes())])?;
                    ponger_signals.reload();
                }
                // A ping may be on its way while ponger closes the connection.
                let before: &[_] =
                    if settings.revokes_other_root { &["pong", "reset", "denied"] } else { &[] };
                let is_over = |result: &String| !before.contains(&result.as_str());
                wait_for(|| pinger_results(&results).iter().any(is_over)).await;
                for result in pinger_results(&results).into_iter().filter(is_over) {
                    ensure!(result == step.result, "a ping ended with `{result}`");
                }
                wait_for(|| metric(&counted.encode(), step.count).is_some_and(|n| n > 0.0)).await;
                pinger_signals.stop("the step has ended");
                Ok(())
            };
            tokio::try_join!(Box::pin(pinger.run_until_stopped(signals)), watching)
        };
        let must =
            || format!("it must end with `{}`, and ponger must count {}", step.result, step.count);
        let outcome = tokio::select! {
            outcome = timeout(STEP_TIMEOUT, story) => match outcome {
                Ok(outcome) => outcome.map(drop).with_context(must),
                Err(_) => Err(anyhow!("not both after {STEP_TIMEOUT:?}")).with_context(must),
            },
            why = interrupted => Err(anyhow!("stopped by {why}")),
            ended = &mut ponger => {
                ended??;
                bail!("ponger stopped by itself");
            }
        };
        // None of its threads may be at work when the process exits.
        ponger_signals.stop("the step has ended");
        ponger.await??;
        outcome
    }
}

/// Waits until `condition` holds.
async fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(POLL_INTERVAL).await;
    }
}

/// How pings have ended until now: `pong`, or failure reasons.
fn pinger_results(metrics: &Metrics) -> Vec<String> {
    let text = metrics.encode();
    let samples = text.lines().filter_map(|line| line.strip_prefix("pinger_pings_total{result=\""));
    let counts = samples.filter_map(|sample| sample.split_once("\"} "));
    counts.filter(|(_, count)| *count != "0").map(|(result, _)| result.to_owned()).collect()
}

/// Has ponger's admin listener begin a fault.
async fn begin_fault(admin: SocketAddr, fault: &str) -> anyhow::Result<()> {
    let body = format!("{{{fault}, \"duration\": \"1m\"}}");
    let request = format!(
        "PUT /faults HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let response = spawn_blocking(move || plain_exchange(admin, &request)).await??;
    ensure!(response.status == 200, "ponger begins no fault: {}", response.body);
    Ok(())
}

fn ponger_config(
    settings: &Settings,
    dir: &Path,
    bundle: &CertDir,
) -> anyhow::Result<ponger::Config> {
    settings.root.issue(&Leaf::ponger("demo").valid(-Validity::DAY, Validity::DAY)).write(dir)?;
    let mut config = ponger::Config { faults: settings.fault.is_some(), ..Default::default() };
    config.service = ponger::config::Service {
        host: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        tls_certificate: Some(dir.join("tls.crt")),
        tls_private_key: Some(dir.join("tls.key")),
        client_ca: Some(bundle.file("ca.crt")),
        allowed_clients: vec!["spiffe://cluster.local/ns/demo/sa/pinger".into()],
        drain_delay: HumanDuration::seconds(0),
        // An answer that is late need not be waited for.
        drain_timeout: HumanDuration::seconds(0),
        ..config.service
    };
    config.identity.poll_interval = NEVER;
    config.metrics.host = Ipv4Addr::LOCALHOST.into();
    config.metrics.port = 0;
    Ok(config)
}

fn pinger_config(settings: &Settings, dir: &Path, port: u16) -> anyhow::Result<pinger::Config> {
    let dir = dir.join("pinger");
    fs::create_dir(&dir)?;
    let mut config = pinger::Config {
        insecure: settings.plain_http,
        interval: HumanDuration::seconds(if settings.revokes_other_root { 1 } else { 0 }),
        timeout: PING_TIMEOUT,
        drain_timeout: HumanDuration::seconds(0),
        count: if settings.revokes_other_root { 0 } else { 1 },
        ..pinger::Config::default()
    };
    config.identity.poll_interval = NEVER;
    config.identity.expiry_warning = Some(HumanDuration::seconds(1));
    config.metrics.host = Ipv4Addr::LOCALHOST.into();
    config.metrics.port = 0;
    if settings.plain_http {
        config.ponger.url = Some(format!("http://localhost:{port}"));
        return Ok(config);
    }
    fs::write(dir.join("ca.crt"), settings.root.pem())?;
    config.ponger = pinger::config::Ponger {
        url: Some(format!("https://localhost:{port}")),
        accept_cert: Some(dir.join("ca.crt")),
        server_id: Some("spiffe://cluster.local/ns/demo/sa/ponger".into()),
        keep_alive: HumanDuration::seconds(if settings.revokes_other_root { 60 } else { 0 }),
        ..config.ponger
    };
    if let Some(client) = &settings.client {
        client.write(&dir)?;
        config.ponger.client_certificate = Some(dir.join("tls.crt"));
        config.ponger.client_private_key = Some(dir.join("tls.key"));
    }
    Ok(config)
}
