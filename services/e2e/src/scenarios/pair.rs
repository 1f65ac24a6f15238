//! The pair does what it is for.

use anyhow::{Result, ensure};

use crate::{
    cluster::Cluster,
    local::Local,
    place::{Place, Service},
    wait::{seconds, until},
    window::Window,
};

/// The original's lines, and whose they are.
const LINES: [(Service, &str); 3] = [
    (Service::Pinger, "Sent ping"),
    (Service::Pinger, "Got pong"),
    (Service::Ponger, "Received GET /ping"),
];

pub(crate) async fn local(place: &Place, _: &Local) -> Result<String> {
    let tally = pongs(place).await?;
    for (service, wanted) in LINES {
        let journal = place.journal(service);
        ensure!(
            journal.values().flatten().any(|line| line.contains(wanted)),
            "{service} has not logged `{wanted}`"
        );
    }
    Ok(tally)
}

pub(crate) async fn cluster(place: &Place, cluster: &Cluster) -> Result<String> {
    let tally = pongs(place).await?;
    for (service, wanted) in LINES {
        until(&format!("`kubectl logs svc/{service}` shows `{wanted}`"), seconds(30), || async {
            let log = cluster.ours(&["logs", &format!("svc/{service}"), "--tail=50"]).await?;
            Ok(if log.contains(wanted) { Ok(()) } else { Err(log) })
        })
        .await?;
    }
    Ok(tally)
}

async fn pongs(place: &Place) -> Result<String> {
    let window = Window::open(place).await?;
    let began = sum(place, Service::Pinger).await?;
    until("pinger gets twenty pongs", seconds(60), || async {
        let now = sum(place, Service::Pinger).await?;
        Ok(if now >= began + 20.0 { Ok(()) } else { Err(format!("{}", now - began)) })
    })
    .await?;
    let tally = window.close(place).await?;
    tally.none_lost()?;
    let mut memory = Vec::new();
    for service in Service::BOTH {
        for samples in place.metrics(service).await?.values() {
            let mib = samples.sum("process_resident_memory_bytes", &[]) / 1_048_576.0;
            memory.push(format!("{service} {mib:.1} MiB"));
        }
    }
    Ok(format!("{tally}; resident: {}", memory.join(", ")))
}

async fn sum(place: &Place, service: Service) -> Result<f64> {
    let metrics = place.metrics(service).await?;
    Ok(metrics.values().map(|of| of.sum("pinger_pings_total", &[("result", "pong")])).sum())
}
