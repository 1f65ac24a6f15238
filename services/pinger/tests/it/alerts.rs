//! Each alert of `k8s/components/monitoring` in a running system: a real Prometheus scrapes pairs of
//! services, each with a fault, and a minute of its rules lasts a second.

mod worlds;

use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use testkit::{PATIENCE, process::is_installed, prometheus::Prometheus, wait_until};

use crate::support::pings;
use worlds::{
    Unread, World, crowded, denied, disguised, endpoint, expiring, lenient, node, old_root,
    overdue, silent, slow, stopped, untrusted,
};

/// The alert of a job that Prometheus does not know.
const ABSENT: &str = "PingPongTargetAbsent";

/// How often Prometheus scrapes and evaluates, and how long it waits for an answer.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// The rules of the component, of which a minute lasts a second: what follows `for:` and `[`, rates, and
/// the age of the last pong.
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
    let mut replace = |old, new| {
        assert!(rules.contains(old), "{old}");
        rules = rules.replace(old, new);
    };
    replace(") > 0.01\n", ") > 0.6\n");
    // Not a second, which a busy machine may take for a ping.
    replace(
        "pinger_last_success_timestamp_seconds > 60",
        "pinger_last_success_timestamp_seconds > 5",
    );
    rules
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
    let (mut stopped, denied, untrusted) = (stopped(), denied(), untrusted());
    let broken = World::healthy("broken", &["PingPongReloadFailed"]);
    let (overdue, expiring, old_root) = (overdue(), expiring(), old_root());
    let (endpoint, node, silent, slow) = (endpoint(), node(), silent(), slow());
    let (lenient, disguised, mut crowded) = (lenient(), disguised(), crowded());

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
