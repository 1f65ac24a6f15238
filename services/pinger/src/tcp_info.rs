//! What Linux knows about a TCP connection (`TCP_INFO`, tcp(7)).

use std::os::fd::AsFd;

/// Numbers of a connection; all 0 where they are not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcpInfo {
    /// How many segments were sent again since the last acknowledgement.
    pub(crate) unanswered_retransmits: u8,
    /// How many segments are sent and not acknowledged.
    pub(crate) unacknowledged: u32,
    /// How many segments were sent again so far. Before anything is sent, these are SYNs.
    pub(crate) retransmits: u32,
}

impl TcpInfo {
    /// Those of `socket` now.
    #[cfg(target_os = "linux")]
    pub(crate) fn new(socket: &impl AsFd) -> Self {
        use nix::{
            getsockopt_impl, libc,
            sys::socket::{getsockopt, sockopt::GetStruct},
        };

        /// The part of `struct tcp_info` that every kernel has: eight bytes, then 24 numbers of 32 bits.
        type Fields = [u32; 26];
        /// The third byte is `tcpi_retransmits`.
        const BYTES: usize = 0;
        /// The index of `tcpi_unacked`.
        const UNACKED: usize = 6;
        /// The index of `tcpi_total_retrans`.
        const TOTAL_RETRANS: usize = 25;

        #[derive(Clone, Copy)]
        struct InfoOption;
        getsockopt_impl!(InfoOption, libc::IPPROTO_TCP, libc::TCP_INFO, Fields, GetStruct<Fields>);

        getsockopt(socket, InfoOption).map_or_else(
            |_| Self::default(),
            |fields| Self {
                unanswered_retransmits: fields[BYTES].to_ne_bytes()[2],
                unacknowledged: fields[UNACKED],
                retransmits: fields[TOTAL_RETRANS],
            },
        )
    }

    /// Linux alone tells.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(_: &impl AsFd) -> Self {
        Self::default()
    }
}
