//! Interim responses (1xx), which a server may send before the final one (RFC 9110, section 15.2). awc
//! takes the first for the final one, so they are skipped before it reads.

/// The largest interim response that is skipped; a longer one is left for awc to reject.
const MAX_BYTES: usize = 16 * 1024;

/// What the first bytes of a response are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// An interim response of this many bytes.
    Interim(usize),
    /// More bytes are needed.
    Unknown,
    /// The final response, or something else.
    Final,
}

impl Start {
    /// Parses the first bytes of a response.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let prefix = b"HTTP/1.1 1";
        if bytes.len() < prefix.len() && prefix.starts_with(bytes) {
            return Self::Unknown;
        }
        // 101 ends HTTP on the connection, so nothing follows it.
        if !bytes.starts_with(prefix) || bytes.starts_with(b"HTTP/1.1 101") {
            return Self::Final;
        }
        match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(position) => Self::Interim(position + 4),
            None if bytes.len() < MAX_BYTES => Self::Unknown,
            None => Self::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_interim_responses_from_final_ones() {
        for (bytes, start) in [
            ("", Start::Unknown),
            ("HTTP/1.1 ", Start::Unknown),
            ("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n", Start::Unknown),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", Start::Interim(25)),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Start::Final),
            ("HTTP/1.1 200 OK\r\n\r\n", Start::Final),
            ("HTTP/1.0 100 x\r\n\r\n", Start::Final),
            ("garbage", Start::Final),
        ] {
            assert_eq!(Start::parse(bytes.as_bytes()), start, "{bytes:?}");
        }
        let endless = format!("HTTP/1.1 103 x\r\nX: {}", "x".repeat(MAX_BYTES));
        assert_eq!(Start::parse(endless.as_bytes()), Start::Final);
    }
}
