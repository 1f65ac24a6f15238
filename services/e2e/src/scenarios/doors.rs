//! Who is let in, and who is believed.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use testkit::{Ca, Issued, Leaf};
use time::Duration;

use crate::{
    metrics::Samples,
    place::{Impostor, Place, Probe, Service, spiffe},
    stranger::Answer,
    wait::{seconds, until},
    window::Window,
};

/// Which counter of ponger's goes up for a stranger.
#[derive(Clone, Copy)]
enum Counted {
    Handshake(&'static str),
    Denied(&'static str),
}

impl Counted {
    fn of(self, samples: &Samples) -> f64 {
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

pub(crate) async fn strangers(place: &Place) -> Result<String> {
    let (root, namespace) = (place.root(), place.namespace());
    let pinger = Leaf::pinger(namespace);
    let another = root.issue(&Leaf::new().uri(&spiffe(namespace, "stranger")));
    let expired = root.issue(&pinger.clone().valid(-Duration::HOUR, -Duration::MINUTE));
    let cases: [(&str, Option<Issued>, Counted); 5] = [
        ("no certificate", None, Counted::Handshake("tls_no_certificate")),
        ("a self-signed one", Some(pinger.self_signed()), Counted::Handshake("tls_untrusted")),
        (
            "another root's",
            Some(Ca::new("another").issue(&pinger)),
            Counted::Handshake("tls_untrusted"),
        ),
        ("another SPIFFE ID", Some(another), Counted::Denied("not_allowed")),
        ("an expired one", Some(expired), Counted::Handshake("tls_expired")),
    ];
    let window = Window::open(place).await?;
    // One that is let in, so that the refusals mean something.
    let (at, answer) = place.knock(Some(&place.issue(Service::Pinger))).await?;
    ensure!(answer.is_pong(), "pinger's own certificate was not let in: {answer:?}");
    let mut samples = place.metrics_of(&at).await?;
    let mut said = Vec::new();
    for (who, certificate, counted) in &cases {
        let (knocked_at, answer) = place.knock(certificate.as_ref()).await?;
        ensure!(knocked_at == at, "{at} is gone");
        match (counted, &answer) {
            (Counted::Handshake(_), Answer::Refused(_))
            | (Counted::Denied(_), Answer::Said(403, _)) => {}
            _ => bail!("a stranger with {who} was answered: {answer:?}"),
        }
        let before = counted.of(&samples);
        samples = until(&format!("{at} counts a stranger with {who}"), seconds(10), || async {
            let samples = place.metrics_of(&at).await?;
            let now = counted.of(&samples);
            // The canary, who is a stranger too, may have knocked meanwhile.
            let counts = now > before;
            Ok(if counts { Ok(samples) } else { Err(format!("{before} before, {now} now")) })
        })
        .await?;
        let (Counted::Handshake(reason) | Counted::Denied(reason)) = counted;
        said.push(format!("{who}: {reason}"));
    }
    window.close(place).await?.none_lost()?;
    Ok(said.join("; "))
}

pub(crate) async fn impostors(place: &Place) -> Result<String> {
    const NAME: &str = "impostor";
    let (root, namespace) = (place.root(), place.namespace());
    let id = spiffe(namespace, "ponger");
    let dns = |leaf: Leaf| leaf.dns("localhost").dns(&format!("{NAME}.{namespace}.svc"));
    let cases: BTreeMap<&str, Issued> = [
        ("tls_wrong_name", root.issue(&Leaf::new().dns("somebody-else").uri(&id))),
        ("tls_wrong_id", root.issue(&dns(Leaf::new()).uri(&spiffe(namespace, "somebody-else")))),
        ("tls_untrusted", Ca::new("another").issue(&dns(Leaf::new()).uri(&id))),
        // The right one, so that the refusals mean something.
        ("pong", root.issue(&dns(Leaf::new()).uri(&id))),
    ]
    .into();
    let mut said = Vec::new();
    for (wanted, leaf) in cases {
        let impostor = Impostor {
            name: NAME,
            namespace: String::new(),
            leaf,
            client_roots: Some(root.pem().to_owned()),
        };
        let url = place.impostor(&impostor).await?;
        let probe = Probe {
            name: format!("probe-{}", wanted.replace('_', "-")),
            labels: vec![("app.kubernetes.io/name", "pinger")],
            url,
            leaf: Some(place.issue(Service::Pinger)),
            roots: Some(root.pem().to_owned()),
            server_id: Some(id.clone()),
            count: 3,
            ..Probe::default()
        };
        let outcomes = place.probe(&probe).await;
        place.dismiss(&impostor).await?;
        let outcomes = outcomes?;
        // The first may come before the rules for a new pod are in place.
        ensure!(
            outcomes.last().is_some_and(|last| last == wanted),
            "pings should have ended as {wanted}, and ended as {outcomes:?}"
        );
        said.push(wanted);
    }
    Ok(said.join(", "))
}
