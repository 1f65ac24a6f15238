//! Binds listeners, or says why that failed.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};

use crate::error::ConfigError;

/// How many connections may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 4096;

/// How much the kernel buffers in each direction of an accepted connection, in bytes; Linux reserves
/// twice as much. By default it grows to megabytes for a peer that does not read, and counts as memory
/// of the container.
pub const SOCKET_BUFFER_BYTES: usize = 16 * 1024;

/// Binds `host` and `port`; port 0 takes a free one, and `::` serves IPv6 and IPv4. `keys` are the
/// configuration keys to name in an error.
///
/// # Errors
/// When the address is taken, privileged or not this machine's.
pub fn bind(host: IpAddr, port: u16, keys: &str) -> Result<TcpListener, ConfigError> {
    let address = SocketAddr::new(host, port);
    listen(address).map_err(|error| {
        let failed = ConfigError::new(format!("{keys} {address}"), &error);
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                failed.hint("choose another port, or stop what listens there (`ss -ltnp` shows it)")
            }
            io::ErrorKind::PermissionDenied => {
                failed.hint("low ports are privileged: choose one above 1023")
            }
            io::ErrorKind::AddrNotAvailable => {
                failed.hint("choose an address of this machine, 0.0.0.0 or ::")
            }
            _ => failed,
        }
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    // Not by `std`: its backlog is short, and it leaves to the system whether `::` serves IPv4 too.
    let socket = Socket::new(kind, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit both.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
