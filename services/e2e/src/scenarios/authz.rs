//! Which clients ponger accepts, and which servers pinger accepts.

use anyhow::{Result, bail, ensure};
use testkit::{Ca, Issued, Leaf};
use time::Duration;

use crate::{
    environment::Environment,
    metrics::Samples,
    model::{OneShotPinger, RoguePonger, Service, spiffe_id},
    ping_window::PingWindow,
    tls_client::ProbeOutcome,
    wait::until,
};

/// How ponger rejects a client, with the reason that it counts.
#[derive(Clone, Copy)]
enum Rejection {
    Handshake(&'static str),
    Denied(&'static str),
}

impl Rejection {
    fn count(self, samples: &Samples) -> f64 {
        match self {
            Self::Handshake(reason) => {
                samples.sum("tls_handshake_failures_total", &[("reason", reason)])
            }
            Self::Denied(reason) => {
                samples.sum("ponger_authz_total", &[("decision", "denied"), ("reason", reason)])
            }
        }
    }
}

pub(crate) async fn untrusted_clients(env: &impl Environment) -> Result<String> {
    use Rejection::{Denied, Handshake};

    let (root, namespace) = (env.root(), env.namespace());
    let pinger = Leaf::pinger(namespace);
    let self_signed = pinger.self_signed();
    let other_root = Ca::new("other root").issue(&pinger);
    let other_id = root.issue(&Leaf::new().uri(&spiffe_id(namespace, "other")));
    let expired = root.issue(&pinger.clone().valid(-Duration::HOUR, -Duration::MINUTE));
    let cases: [(&str, Option<Issued>, Rejection); 5] = [
        ("no certificate", None, Handshake("tls_no_certificate")),
        ("self-signed", Some(self_signed), Handshake("tls_untrusted")),
        ("other root", Some(other_root), Handshake("tls_untrusted")),
        ("other SPIFFE ID", Some(other_id), Denied("not_allowed")),
        ("expired", Some(expired), Handshake("tls_expired")),
    ];
    let window = PingWindow::open(env).await?;
    // The rejections mean something only if the right certificate is accepted.
    let (ponger, outcome) = env.probe(Some(&env.issue(Service::Pinger))).await?;
    ensure!(outcome.is_pong(), "{ponger} rejected pinger's own certificate: {outcome:?}");
    let mut samples = env.metrics_of(&ponger).await?;
    let mut measured = Vec::new();
    for (case, certificate, rejection) in &cases {
        let (probed, outcome) = env.probe(certificate.as_ref()).await?;
        ensure!(probed == ponger, "{ponger} was replaced by {probed}");
        match (rejection, &outcome) {
            (Handshake(_), ProbeOutcome::Rejected(_))
            | (Denied(_), ProbeOutcome::Response(403, _)) => {}
            _ => bail!("a client with {case} was not rejected as expected: {outcome:?}"),
        }
        let before = rejection.count(&samples);
        samples = until(&format!("{ponger} counts the client with {case}"), 10, async || {
            let samples = env.metrics_of(&ponger).await?;
            let now = rejection.count(&samples);
            // At least one: a rejection probe that ponger does not recognize is counted too.
            Ok(if now > before { Ok(samples) } else { Err(format!("{before}, then {now}")) })
        })
        .await?;
        let (Handshake(reason) | Denied(reason)) = rejection;
        measured.push(format!("{case}: {reason}"));
    }
    window.close(env).await?.ensure_none_lost()?;
    Ok(measured.join("; "))
}

pub(crate) async fn rogue_pongers(env: &impl Environment) -> Result<String> {
    const NAME: &str = "rogue";
    let (root, namespace) = (env.root(), env.namespace());
    let id = spiffe_id(namespace, "ponger");
    let leaf = || Leaf::new().dns("localhost").dns(&format!("{NAME}.{namespace}.svc"));
    let cases = [
        // The rejections mean something only if the right certificate is accepted.
        ("pong", root.issue(&leaf().uri(&id))),
        ("tls_untrusted", Ca::new("other root").issue(&leaf().uri(&id))),
        ("tls_wrong_id", root.issue(&leaf().uri(&spiffe_id(namespace, "other")))),
        ("tls_wrong_name", root.issue(&Leaf::new().dns("other").uri(&id))),
    ];
    let mut measured = Vec::new();
    for (expected, leaf) in cases {
        let client_roots = Some(root.pem().to_owned());
        let ponger = RoguePonger { name: NAME, namespace: None, leaf, client_roots };
        let pinger = OneShotPinger {
            name: format!("pinger-{}", expected.replace('_', "-")),
            app: Some("pinger"),
            url: env.start_ponger(&ponger).await?,
            leaf: Some(env.issue(Service::Pinger)),
            roots: Some(root.pem().to_owned()),
            server_id: Some(id.clone()),
            count: 3,
            ..OneShotPinger::default()
        };
        let outcomes = env.run_pinger(&pinger).await;
        env.stop(&ponger).await?;
        let outcomes = outcomes?;
        // NetworkPolicies may not yet allow the first ping of a new pod.
        ensure!(
            outcomes.last().is_some_and(|last| last == expected),
            "expected {expected}, got {outcomes:?}"
        );
        measured.push(expected);
    }
    Ok(measured.join(", "))
}
