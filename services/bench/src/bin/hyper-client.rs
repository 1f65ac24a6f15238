//! The limit in Rust for pinger: hyper on tokio-rustls, which sends pings on one kept connection.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Result, ensure};
use bench::environment::{self, COUNT, PORT};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName, version::TLS13};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, environment::number(PORT)?)).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config()?)).connect(name, tcp).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for _ in 0..environment::number(COUNT)? {
        ping(&mut sender).await?;
    }
    Ok(())
}

fn config() -> Result<ClientConfig> {
    let (chain, key, roots) = environment::credentials()?;
    Ok(ClientConfig::builder_with_provider(environment::provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

async fn ping(sender: &mut SendRequest<Empty<Bytes>>) -> Result<()> {
    sender.ready().await?;
    let request = Request::get("/ping").header(HOST, "localhost").body(Empty::new())?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == StatusCode::OK, "status {}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(body == "pong", "not pong: {body:?}");
    Ok(())
}
