//! The report as text for a terminal.

use std::fmt::Write as _;

use chassis::tls::cert_info::CertInfo;

use super::report::{
    Report, ReportedCertificate, ReportedChain, ReportedClientCertificate, ReportedPhase,
};

/// Terminal escape sequences; nothing where colors are off.
#[derive(Clone, Copy)]
struct Colors(bool);

impl Colors {
    fn paint(self, code: u8, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint(1, text)
    }

    fn red(self, text: &str) -> String {
        self.paint(31, text)
    }

    fn green(self, text: &str) -> String {
        self.paint(32, text)
    }
}

/// Renders `report`; every text of the server in it is printable already.
pub(super) fn render(report: &Report, use_colors: bool) -> String {
    let colors = Colors(use_colors);
    let mut sections = vec![phases(report, colors)];
    sections.extend(report.chain.as_ref().map(|chain| chain_section(report, chain, colors)));
    let certificate = report.client_certificate.as_ref();
    let certificate = certificate.filter(|_| report.chain.is_some());
    sections.extend(certificate.map(|certificate| client_certificate(certificate, colors)));
    sections.extend(response(report, colors));
    sections.push(verdict(report, colors));
    sections.join("\n")
}

fn phases(report: &Report, colors: Colors) -> String {
    let mut text = format!("{}\n", colors.bold(&format!("GET {}", report.url)));
    for ReportedPhase { phase, duration_ms } in &report.phases {
        let time = format!("{duration_ms:.1} ms");
        let detail = phase_detail(report, phase);
        let _ = writeln!(text, "{}", format!("  {phase:<10} {time:>10}  {detail}").trim_end());
        if *phase == "connect" {
            for address in report.addresses.iter().filter(|address| address.result != "connected") {
                let cause = address.cause.as_deref().map(|cause| format!(": {cause}"));
                let result = address.result.replace('_', " ");
                let result = if address.cause.is_some() { colors.red(&result) } else { result };
                let (address, cause) = (&address.address, cause.unwrap_or_default());
                let _ = writeln!(text, "  {:22}  {address} {result}{cause}", "");
            }
        }
    }
    text
}

fn phase_detail(report: &Report, phase: &str) -> String {
    match phase {
        "resolve" => {
            let addresses = report.addresses.iter().map(|address| address.address.as_str());
            addresses.collect::<Vec<_>>().join(", ")
        }
        "connect" => {
            let connected = report.addresses.iter().find(|address| address.result == "connected");
            connected.map_or(String::new(), |address| address.address.clone())
        }
        "tls" => {
            let tls = report.tls.as_ref();
            tls.map_or(String::new(), |tls| {
                format!("{}, {}, {}", tls.version, tls.cipher, tls.group)
            })
        }
        _ => String::new(),
    }
}

fn chain_section(report: &Report, chain: &ReportedChain, colors: Colors) -> String {
    let mut text = format!("{}\n", colors.bold("certificate chain of the server"));
    for (position, ReportedCertificate { info, note }) in chain.certificates.iter().enumerate() {
        let number = position + 1;
        let subject = info.as_ref().map_or("(cannot be read)", |info| info.subject.as_str());
        let _ = writeln!(text, "  {number}  {subject}");
        if let Some(info) = info {
            for (name, value) in facts(info) {
                let _ = writeln!(text, "     {name:<10} {value}");
            }
        }
        let note = if chain.stopped_at == Some(number) { colors.red(note) } else { note.clone() };
        let _ = writeln!(text, "     {note}");
    }
    if chain.more_certificates > 0 {
        let _ = writeln!(text, "  and {} more", chain.more_certificates);
    }
    let roots = report.expected.roots.unwrap_or_default();
    let plural = if roots == 1 { "" } else { "s" };
    let bundle = report.expected.trust_bundle.as_deref().unwrap_or("the system");
    let name = report.expected.server_name.as_deref().unwrap_or_default();
    let id = report.expected.server_id.as_ref().map(|id| format!(" with ID {id}"));
    let result = if chain.verified { colors.green("verified") } else { colors.red("rejected") };
    let expectation = format!("{name}{}", id.unwrap_or_default());
    let _ = writeln!(text, "  {result}: as {expectation}, by {roots} root{plural} of {bundle}");
    text
}

fn facts(info: &CertInfo) -> Vec<(&'static str, String)> {
    let mut names: Vec<_> = info.dns_names.iter().map(|name| format!("DNS {name}")).collect();
    names.extend(info.ip_addresses.iter().map(|address| format!("IP {address}")));
    let is_id = |uri: &&String| Some(*uri) != info.spiffe_id.as_ref();
    names.extend(info.uris.iter().filter(is_id).map(|uri| format!("URI {uri}")));
    if info.more_names > 0 {
        names.push(format!("and {} more", info.more_names));
    }
    let mut facts = Vec::new();
    if !names.is_empty() {
        facts.push(("names", names.join(", ")));
    }
    facts.extend(info.spiffe_id.clone().map(|id| ("SPIFFE ID", id)));
    facts.push(("issuer", info.issuer.clone()));
    facts.push(("valid", format!("{} to {}", info.not_before, info.not_after)));
    let ca = if info.is_ca { ", CA" } else { "" };
    facts.push(("key", format!("{}, signed with {}{ca}", info.key, info.signature)));
    facts
}

fn client_certificate(certificate: &ReportedClientCertificate, colors: Colors) -> String {
    let mut text = format!("{}\n", colors.bold("client certificate"));
    let asked = match certificate.requested {
        None => "unknown: the handshake ended before that".to_owned(),
        Some(false) => "no".to_owned(),
        Some(true) if certificate.ca_names.is_empty() => "yes, of any CA".to_owned(),
        Some(true) => {
            let mut names = certificate.ca_names.join("; ");
            if certificate.more_ca_names > 0 {
                let _ = write!(names, "; and {} more", certificate.more_ca_names);
            }
            format!("yes, of: {names}")
        }
    };
    let configured = certificate.configured.as_ref().map(|info| match &info.spiffe_id {
        Some(id) => format!("{}, {id}", info.subject),
        None => info.subject.clone(),
    });
    let sent = match (configured, certificate.sent) {
        (Some(configured), true) => format!("yes: {configured}"),
        (Some(configured), false) => format!("no; configured: {configured}"),
        (None, _) => "no; none is configured".to_owned(),
    };
    let _ = writeln!(text, "  asked for  {asked}");
    let _ = writeln!(text, "  sent       {sent}");
    text
}

fn response(report: &Report, colors: Colors) -> Option<String> {
    let response = report.response.as_ref()?;
    let mut text = format!("{}\n", colors.bold("response"));
    let _ = writeln!(text, "  {} {}", response.version, response.status);
    for (name, value) in &response.headers {
        let _ = writeln!(text, "  {name}: {value}");
    }
    match (&response.body, response.body_bytes) {
        (Some(body), Some(bytes)) if !body.is_empty() => {
            let _ = writeln!(text, "  body of {bytes} bytes: {body}");
        }
        (_, Some(bytes)) => {
            let _ = writeln!(text, "  body of {bytes} bytes");
        }
        _ => {
            let _ = writeln!(text, "  body not shown: it is long, or did not arrive as a whole");
        }
    }
    Some(text)
}

fn verdict(report: &Report, colors: Colors) -> String {
    let time = format!("{:.1} ms", report.duration_ms);
    match &report.failure {
        None => {
            let verified = report.chain.as_ref().is_some_and(|chain| chain.verified);
            let verified = if verified {
                "the server was verified, and"
            } else {
                "the server, which was NOT verified,"
            };
            format!("{}: {verified} answered in {time}\n", colors.green("Good"))
        }
        Some(failure) => {
            let broken = colors.red("Broken");
            let (phase, reason) = (failure.phase, failure.reason);
            let (cause, hint) = (&failure.cause, &failure.hint);
            format!("{broken} in phase {phase} after {time}, {reason}: {cause}\nTo do: {hint}\n")
        }
    }
}
