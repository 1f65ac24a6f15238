//! The limit in Rust: hyper on tokio-rustls, which answers every request with `pong` over mutual TLS.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use bench::environment::{self, PORT};
use http_body_util::Full;
use hyper::{
    Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, server::WebPkiClientVerifier, version::TLS13};
use tokio::{
    net::{TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
};
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config()?));
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, environment::number(PORT)?).into())?;
    let listener = socket.listen(4096)?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            // valgrind counts only what ends.
            _ = terminate.recv() => return Ok(()),
        };
        // The load generator reports connections that fail.
        tokio::spawn(serve(acceptor.clone(), stream));
    }
}

fn config() -> Result<ServerConfig> {
    let (chain, key, roots) = environment::credentials()?;
    let provider = environment::provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(acceptor.accept(stream).await?);
    http1::Builder::new().serve_connection(stream, service_fn(pong)).await?;
    Ok(())
}

async fn pong(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"pong"))))
}
