//! Binding a listener, or saying why not.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::error::ConfigError;

/// How many connections may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 4096;

/// Binds `host` and `port`; port 0 takes a free one, and `::` serves IPv6 and IPv4. `keys` names
/// the configuration's keys for them.
///
/// # Errors
/// When the address is taken, privileged or not this machine's.
pub fn bind(host: IpAddr, port: u16, keys: &str) -> Result<TcpListener, ConfigError> {
    let address = SocketAddr::new(host, port);
    listen(address).map_err(|error| {
        let unusable = ConfigError::new(format!("{keys} {address}"), &error);
        match error.kind() {
            io::ErrorKind::AddrInUse => unusable
                .hint("choose another port, or stop what listens there (`ss -ltnp` shows it)"),
            io::ErrorKind::PermissionDenied => {
                unusable.hint("low ports are privileged: choose one above 1023")
            }
            io::ErrorKind::AddrNotAvailable => {
                unusable.hint("choose an address of this machine, 0.0.0.0 or ::")
            }
            _ => unusable,
        }
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    // Not by `std`: its backlog is short, and it leaves to the system whether `::` serves IPv4 too.
    let socket = rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
