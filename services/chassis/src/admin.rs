//! The admin listener: metrics and probes by plain HTTP, on an `HttpServer` of its own, so that no
//! load on the service keeps an operator from seeing it.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::{Server, ServerHandle},
    http::{KeepAlive, header::ContentType},
    web::{self, Data},
};

use crate::{bind::bind, config, readiness::Readiness, metrics::Metrics, error::ConfigError};

/// For how many milliseconds a client may leave unread what was sent to it.
#[cfg(target_os = "linux")]
const UNREAD: u32 = 2000;

/// The admin listener, bound and not yet running.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    endpoint: String,
    metrics: Metrics,
    health: Readiness,
}

impl Admin {
    /// Binds it.
    ///
    /// # Errors
    /// When the address or the path of the metrics cannot be used.
    pub fn bind(
        settings: &config::Metrics,
        metrics: Metrics,
        health: Readiness,
    ) -> Result<Self, ConfigError> {
        let listener = bind(settings.host, settings.port, "metrics.host and metrics.port")?;
        // What is accepted inherits it. Elsewhere there is no such option, and no cluster either.
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&listener, UNREAD)
            .map_err(|error| ConfigError::new("the admin listener", error))?;
        Ok(Self { listener, endpoint: settings.endpoint.clone(), metrics, health })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs it until its handle stops it.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn run(self) -> std::io::Result<ServerHandle> {
        let Self { listener, endpoint, metrics, health } = self;
        let server: Server = HttpServer::new(move || {
            App::new()
                .app_data(Data::new(metrics.clone()))
                .app_data(Data::new(health.clone()))
                .route(&endpoint, web::get().to(show))
                .route("/livez", web::get().to(live))
                .route("/readyz", web::get().to(ready))
        })
        .workers(1)
        // Few ask here, and briefly: whoever does not shall not use up the descriptors, nor keep
        // the probes waiting.
        .max_connections(16)
        .client_request_timeout(Duration::from_secs(2))
        .client_disconnect_timeout(Duration::from_millis(500))
        .keep_alive(KeepAlive::Disabled)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)?
        .run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Ok(handle)
    }
}

async fn show(metrics: Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(metrics.text())
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("alive\n")
}

async fn ready(health: Data<Readiness>) -> HttpResponse {
    let obstacles = health.obstacles();
    if obstacles.is_empty() {
        HttpResponse::Ok().content_type(ContentType::plaintext()).body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable()
            .content_type(ContentType::plaintext())
            .body(format!("not ready: {}\n", obstacles.join(", ")))
    }
}
