//! The edge: a gateway or an ingress controller, here Traefik, ends TLS for a public name and connects to
//! ponger with mutual TLS.

mod setup;

use std::pin::pin;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::setup::{AcmeServer, Edge, Kind};
use crate::{
    cluster::Cluster,
    environment::Environment as _,
    http,
    model::{Service, spiffe_id},
    tls_client::ProbeOutcome,
    wait::{met, until},
};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

pub(crate) async fn gateway(cluster: &Cluster) -> Result<String> {
    mutual_tls(cluster, Kind::Gateway).await
}

pub(crate) async fn ingress(cluster: &Cluster) -> Result<String> {
    mutual_tls(cluster, Kind::Ingress).await
}

pub(crate) async fn acme(cluster: &Cluster) -> Result<String> {
    let server = AcmeServer::find(cluster).await?;
    let mut measured = Vec::new();
    for kind in [Kind::Gateway, Kind::Ingress] {
        let edge = Edge::create(cluster, kind, Some(&server)).await?;
        let result = check_acme(&edge).await.with_context(|| kind.component());
        measured.push(format!("{}: {}", kind.component(), edge.env.finish(result).await?));
    }
    Ok(measured.join("; "))
}

async fn mutual_tls(cluster: &Cluster, kind: Kind) -> Result<String> {
    let edge = Edge::create(cluster, kind, None).await?;
    let result = check_mutual_tls(&edge).await;
    edge.env.finish(result).await
}

async fn check_mutual_tls(edge: &Edge<'_>) -> Result<String> {
    let roots = edge.provide_certificate().await?;
    edge.deploy().await?;
    edge.until_pong(&roots).await?;
    let namespace = &edge.env.namespace;
    let (id, other) = (spiffe_id(namespace, "edge"), spiffe_id(namespace, "other"));
    let line = format!("Received GET /ping status=200 peer=\"{id}\"");
    until("ponger logs the edge's ID", 10, async || {
        let logs = edge.env.logs(Service::Ponger);
        met(logs.values().flatten().any(|logged| logged.contains(&line)), format!("{logs:?}"))
    })
    .await?;
    let (status, _) = http::get(edge.connect_plain().await?, &edge.host, "/ping").await?;
    ensure!(status == 404, "the edge answered plain HTTP with status {status}");

    let renewal = async {
        edge.env.renew_certificate("edge-client").await?;
        // The new pods get new connections, with the new certificate.
        edge.env.restart(Service::Ponger).await
    };
    let pongs = count_pongs_during(edge, &roots, renewal).await?;

    let transport = ["get", "serverstransport", "ponger", "-o", "json"];
    let right: Value = serde_json::from_str(&edge.env.run_kubectl(&transport).await?)?;
    let wrong = [
        ("a wrong name", json!({ "serverName": format!("other.{namespace}.svc") })),
        ("a wrong SPIFFE ID of ponger", json!({ "peerCertURI": other })),
        ("no client certificate", json!({ "certificatesSecrets": [] })),
    ];
    for (case, spec) in &wrong {
        edge.patch("serverstransport/ponger", spec).await?;
        let fails = |outcome: &ProbeOutcome| matches!(outcome, ProbeOutcome::Response(500..600, _));
        edge.until(&roots, &format!("the edge fails with {case}"), fails).await?;
        edge.patch("serverstransport/ponger", &right["spec"]).await?;
        edge.until_pong(&roots).await?;
    }
    let missing = [("reason", "tls_no_certificate")];
    edge.until_ponger_counts("tls_handshake_failures_total", &missing).await?;

    // cert-manager renews the certificate with this ID.
    edge.patch("certificate/edge-client", &json!({ "uris": [other] })).await?;
    let denied = |outcome: &ProbeOutcome| matches!(outcome, ProbeOutcome::Response(403, _));
    let denial = edge.until(&roots, "ponger denies another SPIFFE ID", denied).await?;
    let not_allowed = [("decision", "denied"), ("reason", "not_allowed")];
    edge.until_ponger_counts("ponger_authz_total", &not_allowed).await?;
    edge.patch("certificate/edge-client", &json!({ "uris": [id] })).await?;
    edge.until_pong(&roots).await?;
    let wrong = wrong.map(|(case, _)| case).join(", ");
    Ok(format!(
        "{pongs} pongs for {id}, and none lost while its certificate is renewed and ponger updated; \
         an error with {wrong}; {denial:?}"
    ))
}

/// Sends requests until `change` is complete, and returns their number; each must receive a pong.
async fn count_pongs_during(
    edge: &Edge<'_>,
    roots: &str,
    change: impl Future<Output = Result<()>>,
) -> Result<u32> {
    let mut change = pin!(change);
    let mut count = 0;
    loop {
        tokio::select! {
            changed = &mut change => return changed.map(|()| count),
            outcome = edge.request(roots) => {
                let outcome = outcome?;
                ensure!(outcome.is_pong(), "after {count} pongs: {outcome:?}");
                count += 1;
            }
        }
    }
}

async fn check_acme(edge: &Edge<'_>) -> Result<String> {
    edge.deploy().await?;
    let chain = until("the certificate is issued", 180, async || {
        let state = ["get", "certificate,order,challenge", "-o", "wide"];
        Ok(match edge.certificate_in("edge-tls").await? {
            Some(chain) => Ok(chain),
            None => Err(edge.env.run_kubectl(&state).await?),
        })
    })
    .await?;
    // A client that trusts the CA that has signed it, and no other.
    let (_, ca) = chain.rsplit_once(BEGIN).context("edge-tls has no certificate")?;
    edge.until_pong(&format!("{BEGIN}{ca}")).await?;
    Ok(format!("a pong from https://{}/ping", edge.host))
}
