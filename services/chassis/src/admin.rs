//! The admin listener: metrics and probes by plain HTTP, on an `HttpServer` of its own, so that no
//! load on the service hides it from an operator.

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

use crate::{bind::bind, config, error::ConfigError, metrics::Metrics, readiness::Readiness};

/// How long sent data may stay unacknowledged before the connection is closed.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT_MS: u32 = 2000;

/// Descriptors that the listener's runtime and its first connections need. actix panics without.
const DESCRIPTORS: usize = 16;

/// The admin listener, bound and not yet running.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    endpoint: String,
    metrics: Metrics,
    readiness: Readiness,
}

impl Admin {
    /// Binds it.
    ///
    /// # Errors
    /// When the address cannot be used, or too few file descriptors are left.
    pub fn bind(
        settings: &config::Metrics,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Result<Self, ConfigError> {
        let listener = bind(settings.host, settings.port, "metrics.host and metrics.port")?;
        // Accepted connections inherit it. Other systems have no such option.
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&listener, TCP_USER_TIMEOUT_MS)
            .map_err(|error| ConfigError::new("the admin listener", error))?;
        let spare: Result<Vec<_>, _> = (0..DESCRIPTORS).map(|_| listener.try_clone()).collect();
        spare.map_err(|error| {
            ConfigError::new("the limit of open files", error)
                .hint("raise it, for instance with `ulimit -n 1024`")
        })?;
        Ok(Self { listener, endpoint: settings.endpoint.clone(), metrics, readiness })
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
        let Self { listener, endpoint, metrics, readiness } = self;
        let server: Server = HttpServer::new(move || {
            App::new()
                .app_data(Data::new(metrics.clone()))
                .app_data(Data::new(readiness.clone()))
                .route(&endpoint, web::get().to(metrics_text))
                .route("/livez", web::get().to(livez))
                .route("/readyz", web::get().to(readyz))
        })
        .workers(1)
        // Few connect here, and briefly. Slow clients must neither use up descriptors nor block
        // the probes.
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

async fn metrics_text(metrics: Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics.encode())
}

async fn livez() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("alive\n")
}

async fn readyz(readiness: Data<Readiness>) -> HttpResponse {
    let reasons = readiness.not_ready_reasons();
    if reasons.is_empty() {
        HttpResponse::Ok().content_type(ContentType::plaintext()).body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable()
            .content_type(ContentType::plaintext())
            .body(format!("not ready: {}\n", reasons.join(", ")))
    }
}
