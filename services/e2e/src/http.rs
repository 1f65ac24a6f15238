//! One HTTP request over a stream.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Sends `GET path` and returns status and body; the connection is closed afterwards.
///
/// # Errors
/// When the connection fails, or the response is not HTTP.
pub async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut response = Vec::new();
    // A connection that ends without close_notify still has a response.
    let end = stream.read_to_end(&mut response).await;
    let response = String::from_utf8_lossy(&response);
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        end?;
        bail!("no response to GET {path}");
    };
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { decode_chunks(body) } else { body.to_owned() };
    Ok((status.context("the response has no status")?, body))
}

fn decode_chunks(mut body: &str) -> String {
    let mut decoded = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        let (Some(chunk), true) = (rest.get(..length), length > 0) else { break };
        decoded.push_str(chunk);
        body = rest.get(length + 2..).unwrap_or("");
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::decode_chunks;

    #[test]
    fn joins_chunks() {
        assert_eq!(decode_chunks("4\r\npong\r\n3\r\nabc\r\n0\r\n\r\n"), "pongabc");
    }
}
