//! `/faults` on the admin listener: GET shows the current fault, PUT or POST with JSON begins one, DELETE
//! ends it.
//!
//! The admin listener has no authentication, and a browser on the same machine or in the same network
//! may run anyone's pages. So requests that a page can cause are rejected: what a page sends has an
//! `Origin`, a form cannot send JSON, and a name that was made to lead here (DNS rebinding) is in `Host`.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{ContentType, HOST, ORIGIN},
    },
    web::{self, Data, Payload, ServiceConfig},
};
use serde::Serialize;
use tokio::time::{sleep_until, timeout};

use super::{Faults, fault::Fault};
use chassis::config::HumanDuration;

/// Where it is.
pub const PATH: &str = "/faults";

/// The largest body, in bytes.
const MAX_BODY: usize = 1024;

/// How long the body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Adds the route.
pub fn configure(config: &mut ServiceConfig, faults: Data<Faults>) {
    config.service(
        web::resource(PATH)
            .app_data(faults)
            .route(web::get().to(show))
            .route(web::put().to(begin))
            .route(web::post().to(begin))
            .route(web::delete().to(end)),
    );
}

/// What is answered.
#[derive(Serialize)]
struct State {
    fault: Option<Fault>,
    /// How much longer it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<HumanDuration>,
}

async fn show(request: HttpRequest, faults: Data<Faults>) -> HttpResponse {
    reject_browsers(&request).unwrap_or_else(|| state(&faults))
}

async fn begin(request: HttpRequest, body: Payload, faults: Data<Faults>) -> HttpResponse {
    if let Some(rejected) = reject_browsers(&request) {
        return rejected;
    }
    if request.content_type() != "application/json" {
        let reason = "content-type: it is not application/json; with curl, use --json\n";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason);
    }
    let body = match timeout(BODY_TIMEOUT, body.to_bytes_limited(MAX_BODY)).await {
        Ok(Ok(Ok(body))) => body,
        Ok(Err(_)) => {
            let reason = format!("the body: it is longer than {MAX_BODY} bytes\n");
            return text(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
        Ok(Ok(Err(_))) | Err(_) => {
            return text(StatusCode::REQUEST_TIMEOUT, "the body: it did not arrive in time\n");
        }
    };
    match Fault::from_json(&body) {
        Ok(fault) => {
            let end = faults.begin(fault, Instant::now());
            let ending = faults.clone();
            actix_rt::spawn(async move {
                sleep_until(end.into()).await;
                ending.end_if_over(Instant::now());
            });
            state(&faults)
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn end(request: HttpRequest, faults: Data<Faults>) -> HttpResponse {
    if let Some(rejected) = reject_browsers(&request) {
        return rejected;
    }
    faults.end();
    state(&faults)
}

fn state(faults: &Faults) -> HttpResponse {
    let (fault, left) = faults.current(Instant::now()).unzip();
    // Whole milliseconds are precise enough to read.
    let left = left.map(|left: Duration| {
        HumanDuration(Duration::from_millis(left.as_millis().try_into().unwrap_or(u64::MAX)))
    });
    HttpResponse::Ok().json(State { fault, left })
}

/// The response to a request that a page in a browser may have caused.
fn reject_browsers(request: &HttpRequest) -> Option<HttpResponse> {
    if request.headers().contains_key(ORIGIN) {
        let reason = "origin: requests of web pages are rejected\n";
        return Some(text(StatusCode::FORBIDDEN, reason));
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local_or_address(host) {
        let reason = "host: it is neither an IP address nor localhost\n";
        return Some(text(StatusCode::FORBIDDEN, reason));
    }
    None
}

/// Whether `host`, with or without a port, is an IP address or `localhost`.
fn is_local_or_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, text: impl Into<String>) -> HttpResponse {
    HttpResponseBuilder::new(status).content_type(ContentType::plaintext()).body(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_addresses_and_localhost_as_host() {
        for host in ["127.0.0.1:2112", "10.42.0.7", "[::1]:2112", "[::1]", "localhost:2112"] {
            assert!(is_local_or_address(host), "{host}");
        }
        for host in ["", "evil.example:2112", "localhost.evil.example", "127.0.0.1.evil.example:1"]
        {
            assert!(!is_local_or_address(host), "{host}");
        }
    }
}
