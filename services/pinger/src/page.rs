//! The live page at `/` of the admin listener: who pings whom, how fast, and what fails.
//!
//! - [`snapshot`]: what the page shows at one moment
//! - `view`: that as HTML, for browsers with and without script
//! - `events`: the same HTML and the pings of the plot as server-sent events
//!
//! `page.js` replaces the sections that changed and draws the plot, by [uPlot]. Among small plotting
//! libraries that are kept, it is the one made for streams of times and values: 53 kB, MIT, no
//! dependencies, styles set by CSSOM only, so that the Content-Security-Policy needs no `unsafe-inline`.
//! Chart.js and ECharts have four and twenty times its size. `uplot` holds the files as released.
//!
//! [uPlot]: https://github.com/leeoniya/uPlot

mod events;
pub mod snapshot;
mod view;

use std::future::ready;

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header,
    web::{self, Data, ServiceConfig},
};
use chassis::admin::resource;

use self::{
    events::{EventStreams, events},
    snapshot::Source,
};

/// Nothing but what this listener serves, no script or style in the HTML, and in no frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns what adds the page's routes, which show `source`.
pub fn routes(source: Source) -> impl Fn(&mut ServiceConfig) + Send + Sync + 'static {
    let (source, streams) = (Data::new(source), Data::new(EventStreams::default()));
    move |config| {
        config
            .app_data(source.clone())
            .app_data(streams.clone())
            .service(resource("/", page))
            .service(web::resource("/events").route(web::get().to(events)));
        for (path, content_type, body) in FILES {
            let file =
                move || ready(respond(HttpResponse::Ok()).content_type(content_type).body(body));
            config.service(resource(path, file));
        }
    }
}

/// Path, type and contents of each file.
const FILES: [(&str, &str, &str); 5] = [
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/uPlot.css", "text/css; charset=utf-8", include_str!("page/uplot/uPlot.min.css")),
    ("/uPlot.js", "text/javascript; charset=utf-8", include_str!("page/uplot/uPlot.iife.min.js")),
];

async fn page(source: Data<Source>) -> HttpResponse {
    let snapshot = source.snapshot();
    let html = view::document(&source, &snapshot).into_string();
    respond(HttpResponse::Ok()).content_type("text/html; charset=utf-8").body(html)
}

/// Adds the headers that each response of the page has.
fn respond(mut response: HttpResponseBuilder) -> HttpResponseBuilder {
    response
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    response
}
