//! The header `traceparent` (W3C Trace Context), by which two services share a trace.

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The name of the header.
pub const TRACEPARENT: &str = "traceparent";

/// Returns the header that makes a span of another service a child of `span`.
pub fn traceparent(span: &SpanContext) -> String {
    let mut header = Header(None);
    let context = Context::new().with_remote_span_context(span.clone());
    TraceContextPropagator::new().inject_context(&context, &mut header);
    header.0.unwrap_or_default()
}

/// Returns the context of a span's parent by the header that a peer has sent; without a parent if there
/// is none, or it is malformed.
pub fn parent(traceparent: Option<&str>) -> Context {
    let header = Header(traceparent.filter(|header| is_well_formed(header)).map(str::to_owned));
    TraceContextPropagator::new().extract_with_context(&Context::new(), &header)
}

/// Whether the fields of `header` have the lengths and digits of the specification, which the SDK does
/// not check. A later version than `00` may have more fields.
fn is_well_formed(header: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = |(at, byte): (usize, u8)| match at {
        2 | 35 | 52 => byte == b'-',
        0..55 => is_digit(byte),
        55 => byte == b'-' && !header.starts_with("00"),
        _ => true,
    };
    header.len() >= 55 && header.bytes().enumerate().all(fits)
}

/// The one header. `tracestate` is neither read nor sent: it would be kept with each span, as long as
/// a peer likes, and nothing here adds to it.
struct Header(Option<String>);

impl Extractor for Header {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| name == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Injector for Header {
    fn set(&mut self, name: &str, value: String) {
        if name == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn parse(header: &str) -> Option<SpanContext> {
        let context = parent(Some(header));
        let span = context.span().span_context().clone();
        span.is_valid().then_some(span)
    }

    #[test]
    fn a_header_names_the_parent_and_whether_it_is_sampled() {
        for (flags, sampled) in [("00", false), ("01", true)] {
            let header = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
            let span = parse(&header).unwrap();
            assert_eq!(span.trace_id().to_string(), TRACE);
            assert_eq!((span.is_sampled(), span.is_remote()), (sampled, true));
            assert_eq!(traceparent(&span), header);
        }
    }

    #[test]
    fn malformed_headers_are_ignored() {
        let long = format!("00-{TRACE}-b7ad6b7169203331-01{}", "-0".repeat(8000));
        for header in [
            "",
            "-",
            "---",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319cc-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033311-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-001",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            &long,
        ] {
            assert_eq!(parse(header), None, "{header}");
        }
        assert!(!parent(None).span().span_context().is_valid());
    }
}
