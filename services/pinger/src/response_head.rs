//! The head of a response, before awc reads it.
//!
//! awc takes an interim response (1xx), of which a server may send several (RFC 9110, section 15.2), for
//! the final one, and reads a body that ends with the connection (RFC 9112, section 6.3) in HTTP/1.0
//! alone. So interim responses are skipped, and such a response is passed on as one of HTTP/1.0.

use httparse::{EMPTY_HEADER, ParserConfig, Response, Status};

/// How many bytes of a head are parsed here; a longer one is left for awc to reject.
const MAX_BYTES: usize = 16 * 1024;

/// As many as awc accepts.
const MAX_HEADERS: usize = 96;

/// What the first bytes of a response are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// An interim response of this many bytes.
    Interim(usize),
    /// Of an interim response or a final one: more bytes are needed.
    Unknown,
    /// The start of a final response.
    Incomplete,
    /// The head of a final response, or something else.
    Final {
        /// Whether it is one of HTTP/1.1 whose body ends with the connection.
        ends_with_connection: bool,
    },
}

impl Start {
    const OTHER: Self = Self::Final { ends_with_connection: false };

    /// Parses the first bytes of a response.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let prefix = b"HTTP/1.1 1";
        if bytes.len() < prefix.len() && prefix.starts_with(bytes) {
            return Self::Unknown;
        }
        // 101 ends HTTP on the connection, so nothing follows it.
        let is_interim = bytes.starts_with(prefix) && !bytes.starts_with(b"HTTP/1.1 101");
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = Response::new(&mut headers);
        let mut config = ParserConfig::default();
        match config
            .allow_spaces_after_header_name_in_responses(true)
            .parse_response(&mut response, bytes)
        {
            Ok(Status::Complete(length)) if is_interim => Self::Interim(length),
            Ok(Status::Complete(_)) => {
                Self::Final { ends_with_connection: ends_with_connection(&response) }
            }
            Ok(Status::Partial) if bytes.len() >= MAX_BYTES => Self::OTHER,
            Ok(Status::Partial) if is_interim => Self::Unknown,
            Ok(Status::Partial) => Self::Incomplete,
            Err(_) => Self::OTHER,
        }
    }
}

/// Whether nothing in the head says where the body ends, and there may be one.
fn ends_with_connection(response: &Response<'_, '_>) -> bool {
    let has = |name: &str| response.headers.iter().any(|one| one.name.eq_ignore_ascii_case(name));
    response.version == Some(1)
        && !matches!(response.code, Some(101 | 204 | 304))
        && !has("content-length")
        && !has("transfer-encoding")
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
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Start::OTHER),
            ("HTTP/1.1 200 OK\r\nContent-", Start::Incomplete),
            ("HTTP/1.0 100 x\r\n\r\n", Start::OTHER),
            ("garbage", Start::OTHER),
        ] {
            assert_eq!(Start::parse(bytes.as_bytes()), start, "{bytes:?}");
        }
        for status in ["103", "200"] {
            let endless = format!("HTTP/1.1 {status} x\r\nX: {}", "x".repeat(MAX_BYTES));
            assert_eq!(Start::parse(endless.as_bytes()), Start::OTHER);
        }
    }

    #[test]
    fn says_whether_the_body_ends_with_the_connection() {
        for (head, ends_with_connection) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\nConnection: close\n\n", true),
            ("HTTP/1.1 500 x\r\nServer: a\r\n\r\nbody", true),
            ("HTTP/1.1 200 OK\r\ncontent-LENGTH : 0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", false),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", false),
            // awc knows that by itself.
            ("HTTP/1.0 200 OK\r\n\r\n", false),
        ] {
            let start = Start::Final { ends_with_connection };
            assert_eq!(Start::parse(head.as_bytes()), start, "{head:?}");
        }
    }
}
