//! What pinger makes of the faults that ponger injects.

use testkit::client::plain_exchange;

use crate::support::{Env, ms, pings};

#[test]
fn an_injected_fault_is_a_loss_and_ends_with_it() {
    let env = Env::new();
    let mut config = env.ponger_config();
    config.faults = true;
    let ponger = env.start_ponger(&config);
    let send = |method: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "{method} /faults HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        assert_eq!(plain_exchange(ponger.admin, &request).unwrap().status, 200);
    };
    let mut config = env.pinger_config(ponger.address);
    config.timeout = ms(2000);
    config.connect_timeout = ms(2000);
    let pinger = env.start_pinger(&config);
    for (kind, reason) in [
        (r#""drop""#, "reset"),
        (r#""error""#, "status"),
        (r#""truncate""#, "reset"),
        (r#""delay", "delay": "1m""#, "request_timeout"),
    ] {
        let before = pinger.metric(&pings(reason));
        send("PUT", &format!("{{\"kind\": {kind}, \"duration\": \"10m\"}}"));
        pinger.wait_for_metric(&pings(reason), before + 1.0);
        send("DELETE", "");
        pinger.wait_for_metric(&pings("pong"), pinger.metric(&pings("pong")) + 2.0);
    }
}
