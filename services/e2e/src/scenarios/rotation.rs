//! Certificates, keys and roots change while the pair runs.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, ensure};
use testkit::{Ca, Issued};

use crate::{
    place::{Place, Service},
    stranger::{Answer, Client},
    wait::{seconds, until},
    window::Window,
};

pub(crate) async fn leaves(place: &Place) -> Result<String> {
    let window = Window::open(place).await?;
    renew(place).await?;
    some_pongs(place).await?;
    Ok(window.close(place).await?.none_lost()?.to_string())
}

pub(crate) async fn root(place: &Place) -> Result<String> {
    let window = Window::open(place).await?;
    let (old, new) = (place.root(), Arc::new(Ca::new("ping-pong e2e, next")));
    let roots = format!("{}{}", old.pem(), new.pem());
    let holder = Client::new(&roots, Some(&place.issue(Service::Pinger)))?;

    place.changed(&Service::BOTH, "ok", || async { place.trust(&[&old, &new]).await }).await?;
    place.set_root(Arc::clone(&new));
    renew(place).await?;
    // A holder of the old root's certificate, who is still let in: with a session that it may
    // resume later, and over a connection that it keeps.
    let (at, stream) = place.dial().await?;
    let answer = holder.knock(stream, "ponger").await?;
    ensure!(answer.is_pong(), "{at} refused a holder of a root that it trusts: {answer:?}");
    let mut kept = holder.open(place.dial().await?.1, "ponger").await?;
    ensure!(!kept.is_resumed(), "{at} resumes sessions, so that no certificate is looked at again");
    ensure!(kept.is_good().await, "{at} does not answer over a connection that is kept");
    place.changed(&Service::BOTH, "ok", || async { place.trust(&[&new]).await }).await?;

    ensure!(!kept.is_good().await, "a connection of the old root's holder lives on");
    let (again, stream) = place.dial().await?;
    ensure!(again == at, "{at} is gone");
    let answer = holder.knock(stream, "ponger").await?;
    ensure!(
        matches!(answer, Answer::Refused(_)),
        "a holder of the old root's certificate was let in: {answer:?}"
    );
    some_pongs(place).await?;
    let tally = window.close(place).await?;
    Ok(format!(
        "{}; the old root's holder is refused, with a kept connection and a known session too",
        tally.none_lost()?
    ))
}

pub(crate) async fn broken(place: &Place) -> Result<String> {
    let window = Window::open(place).await?;
    let mut good = BTreeMap::new();
    for service in Service::BOTH {
        let (one, another) = (place.issue(service), place.issue(service));
        let mixed = Issued { chain: one.chain.clone(), key: another.key };
        place
            .changed(&[service], "refused", || async { place.give(service, &mixed).await })
            .await?;
        good.insert(service, one);
    }
    some_pongs(place).await?;
    for (service, good) in &good {
        place.changed(&[*service], "ok", || async { place.give(*service, good).await }).await?;
    }
    some_pongs(place).await?;
    Ok(format!("{}; refused by both, repaired in both", window.close(place).await?.none_lost()?))
}

/// New certificates from the root that there is, for both.
async fn renew(place: &Place) -> Result<()> {
    place
        .changed(&Service::BOTH, "ok", || async {
            for service in Service::BOTH {
                place.give(service, &place.issue(service)).await?;
            }
            Ok(())
        })
        .await
}

/// Waits for pongs by what is in force now.
async fn some_pongs(place: &Place) -> Result<()> {
    let pongs = || async {
        let metrics = place.metrics(Service::Pinger).await?;
        let of = metrics.values().map(|of| of.sum("pinger_pings_total", &[("result", "pong")]));
        anyhow::Ok(of.sum::<f64>())
    };
    let before = pongs().await?;
    until("pinger gets ten more pongs", seconds(60), || async {
        let now = pongs().await?;
        Ok(if now >= before + 10.0 { Ok(()) } else { Err((now - before).to_string()) })
    })
    .await
}
