//! The admin listener: metrics, probes and routes of the service's own by plain HTTP, on an
//! `HttpServer` of its own, so that no load on the service hides it from an operator.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    future::ready,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    App, Error, FromRequest, Handler, HttpResponse, HttpServer, Resource,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{KeepAlive, header::ContentType},
    middleware::{Next, from_fn},
    rt::net::TcpStream,
    web::{self, Data, ServiceConfig},
};
use anyhow::Context as _;
use rustix::net::{Shutdown, shutdown};

use crate::{
    bind::bind,
    config,
    error::ConfigError,
    metrics::Metrics,
    process::{RunningServer, check_descriptors},
    readiness::Readiness,
};

/// What errors call it.
const NAME: &str = "the admin listener";

/// How long sent data may stay unacknowledged before the connection is closed.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT_MS: u32 = 2000;

/// Descriptors that the listener's runtime and its first connections need.
const DESCRIPTORS: usize = 16;

/// How many connections may be open.
const MAX_CONNECTIONS: usize = 32;

/// The admin listener, bound and not yet running.
pub struct Admin {
    listener: TcpListener,
    endpoint: String,
    metrics: Metrics,
    readiness: Readiness,
    routes: Box<Routes>,
}

/// Adds routes.
type Routes = dyn Fn(&mut ServiceConfig) + Send + Sync;

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("listener", &self.listener).finish_non_exhaustive()
    }
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
            .map_err(|error| ConfigError::new(NAME, error))?;
        check_descriptors(DESCRIPTORS)?;
        let endpoint = settings.endpoint.clone();
        Ok(Self { listener, endpoint, metrics, readiness, routes: Box::new(|_| {}) })
    }

    /// Adds routes of the service. One at `/` replaces the index; those of this listener come first.
    #[must_use]
    pub fn with_routes(self, routes: impl Fn(&mut ServiceConfig) + Send + Sync + 'static) -> Self {
        Self { routes: Box::new(routes), ..self }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs it.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn run(self) -> anyhow::Result<RunningServer> {
        let Self { listener, endpoint, metrics, readiness, routes } = self;
        let open = Arc::<OpenConnections>::default();
        let routes: Arc<Routes> = routes.into();
        let server = HttpServer::new(move || {
            let index = format!("{endpoint} metrics\n/livez liveness\n/readyz readiness\n");
            App::new()
                .app_data(Data::new(metrics.clone()))
                .app_data(Data::new(readiness.clone()))
                .service(resource(&endpoint, metrics_text))
                .service(resource("/livez", livez))
                .service(resource("/readyz", readyz))
                .configure(&*routes)
                .service(resource("/", move || ready(plain_text(index.clone()))))
                .wrap(from_fn(first_request))
        })
        .workers(1)
        .on_connect(move |io, data| {
            if let Some(stream) = io.downcast_ref::<TcpStream>() {
                data.insert(open.add(stream));
            }
        })
        .client_request_timeout(Duration::from_secs(2))
        .client_disconnect_timeout(Duration::from_millis(500))
        .keep_alive(KeepAlive::Disabled)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)
        .context(NAME)?;
        Ok(RunningServer::spawn(NAME, server.run()))
    }
}

/// A resource that answers GET and HEAD, and other methods with 405.
pub fn resource<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args, Output = HttpResponse>,
    Args: FromRequest + 'static,
{
    web::resource(path).route(web::get().to(handler.clone())).route(web::head().to(handler))
}

/// The open connections, oldest first. Few connect here, and briefly: when there are too many, the
/// oldest is closed, so that slow clients neither use up descriptors nor keep a probe waiting.
#[derive(Default)]
struct OpenConnections(Mutex<VecDeque<(u64, OwnedFd)>>);

/// Removes a connection when it is dropped, with the connection's data.
struct OpenConnection {
    id: u64,
    has_request: Cell<bool>,
    all: Arc<OpenConnections>,
}

impl OpenConnections {
    fn add(self: &Arc<Self>, stream: &TcpStream) -> Option<OpenConnection> {
        let descriptor = stream.as_fd().try_clone_to_owned().ok()?;
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = open.back().map_or(0, |(last, _)| last + 1);
        open.push_back((id, descriptor));
        if open.len() > MAX_CONNECTIONS
            && let Some((_, oldest)) = open.pop_front()
        {
            // It may have been closed just now.
            let _ = shutdown(&oldest, Shutdown::Both);
        }
        Some(OpenConnection { id, has_request: Cell::new(false), all: Arc::clone(self) })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(id, _)| *id != self.id);
    }
}

/// Answers one request of a connection, which is closed then. Others may have been sent with it, and
/// answering them all would cost memory and time, even where nothing reads the answers.
async fn first_request(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let connection = request.conn_data::<Option<OpenConnection>>().and_then(Option::as_ref);
    if connection.is_some_and(|connection| connection.has_request.replace(true)) {
        return Ok(request.into_response(HttpResponse::TooManyRequests()));
    }
    next.call(request).await
}

async fn metrics_text(metrics: Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics.encode())
}

async fn livez() -> HttpResponse {
    plain_text("alive\n".into())
}

fn plain_text(body: String) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body(body)
}

async fn readyz(readiness: Data<Readiness>) -> HttpResponse {
    let (reasons, warnings) = (readiness.not_ready_reasons(), readiness.warnings());
    let mut response =
        if reasons.is_empty() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let state = match reasons.as_slice() {
        [] => "ready\n".to_owned(),
        reasons => format!("not ready: {}\n", reasons.join(", ")),
    };
    let warnings: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    response.content_type(ContentType::plaintext()).body(state + &warnings)
}
