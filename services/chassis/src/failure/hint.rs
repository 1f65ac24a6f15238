//! What to do about each reason: the texts of the README's troubleshooting table, which a test compares
//! with these.

use super::FailureReason;

impl FailureReason {
    /// What a person can do about it, with code in backticks.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Resolve => {
                "Check the host in `ponger.url`, that the Service exists, and that egress to DNS \
                 is allowed (port 53, UDP and TCP)."
            }
            Self::ConnectRefused => {
                "Start the server, or correct the port. In Kubernetes, check that the Service has \
                 ready endpoints."
            }
            Self::ConnectUnreachable => {
                "Check routes and firewall rules for the address in `cause`; for an IPv6 address, \
                 that the host has IPv6."
            }
            Self::ConnectTimeout => {
                "Packets are dropped: check NetworkPolicies (pod labels, port), security groups, \
                 and whether the node is up."
            }
            Self::ConnectFailed => {
                "Read the operating system's error in `cause`. For \"too many open files\", raise \
                 the limit."
            }
            Self::TlsUntrusted => {
                "Compare the peer's `issuer` with the `trusted_roots` in the log of the side that \
                 rejected it. Add the root to that bundle, or the intermediates to the peer's \
                 certificate file."
            }
            Self::TlsExpired => {
                "Renew the peer's certificate (`certs renew`). If that was done, look for a \
                 rejected reload in the peer's log, and compare the clocks."
            }
            Self::TlsNotYetValid => "Compare the clocks of both sides, or wait.",
            Self::TlsWrongName => {
                "Issue the server's certificate for the host in `ponger.url`, or set \
                 `ponger.serverName` to a name that it has."
            }
            Self::TlsWrongId => {
                "Compare `ponger.serverId` with the URI in the server's certificate (both contain the \
                 namespace), and correct one of them."
            }
            Self::TlsNoCertificate => {
                "Set `ponger.clientCertificate` and `ponger.clientPrivateKey`."
            }
            Self::TlsRefusedByPeer => {
                "Read the alert in `cause`, and the peer's log of the same second. \
                 `certificate_required`: configure a certificate. `unknown_ca`: add its root to \
                 the peer's bundle. `certificate_expired`: renew it."
            }
            Self::TlsProtocol => {
                "The port speaks something else, such as plain HTTP or a proxy's protocol; \
                 correct the URL. Or no TLS version is common: see `minTlsVersion`."
            }
            Self::TlsTimeout => {
                "Check the CPU and the open connections of the server. If `cause` says that what was \
                 sent is not acknowledged, or other clients are served, check the MTU and \
                 firewalls on the way."
            }
            Self::Denied => {
                "ponger's log has the `peer` and why it is `denied`. For `not_allowed`, add the \
                 ID to `service.allowedClients`, and roll out."
            }
            Self::Status | Self::Header | Self::Body => {
                "Something other than ponger answers, the path in `ponger.url` is not `/ping`, or ponger \
                 injects a fault (`ponger_faults_active`). For another service, compare `cause` with `expect.*`."
            }
            Self::Reset => {
                "The server or something between closed the connection. Check its restarts, and in ponger \
                 `ponger_connections_rejected_total` (`service.maxConnections`). With \
                 `ponger.keepAlive`, it must be shorter than `service.idleTimeout` and any load \
                 balancer's."
            }
            Self::RequestTimeout => {
                "Check the load of the server (in ponger, `ponger_request_duration_seconds`) and the network \
                 after the handshake."
            }
            Self::Shutdown => {
                "pinger was stopped during a ping. If pings are long, raise `drainTimeout`."
            }
        }
    }
}
