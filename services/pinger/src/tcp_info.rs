//! What Linux knows about a TCP connection (`TCP_INFO`, tcp(7)).

use actix_rt::net::TcpStream;

/// Returns how many segments of a connection were sent again so far; 0 where it is not known. Asked
/// before anything is sent, these are SYNs.
#[cfg(target_os = "linux")]
pub(crate) fn retransmits(stream: &TcpStream) -> u32 {
    use nix::{
        getsockopt_impl, libc,
        sys::socket::{getsockopt, sockopt::GetStruct},
    };

    /// The part of `struct tcp_info` that every kernel has: eight bytes, then 24 numbers of 32 bits.
    type TcpInfo = [u32; 26];
    /// The index of `tcpi_total_retrans`.
    const TOTAL_RETRANS: usize = 25;

    #[derive(Clone, Copy)]
    struct Info;
    getsockopt_impl!(Info, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo, GetStruct<TcpInfo>);

    getsockopt(stream, Info).map_or(0, |info| info[TOTAL_RETRANS])
}

/// Linux alone tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn retransmits(_: &TcpStream) -> u32 {
    0
}
