//! The responses.

use actix_web::{
    HttpResponse,
    guard::{GuardContext, fn_guard},
    http::{
        Method, StatusCode,
        header::{ALLOW, CONTENT_TYPE, ContentType, HeaderValue},
    },
    web::{self, Data, ServiceConfig},
};

use crate::faults::{self, Faults};

const PING: &str = "/ping";

/// Whether `path` is that of the one route.
pub fn is_ping(path: &str) -> bool {
    path == PING
}

/// Adds the one route, and the responses to requests for others. With `faults`, pings have those.
pub fn configure(config: &mut ServiceConfig, faults: Option<&Data<Faults>>) {
    let route = web::route().guard(fn_guard(is_get_or_head));
    let resource = match faults {
        None => web::resource(PING).route(route.to(ping)),
        Some(faults) => web::resource(PING).app_data(faults.clone()).route(route.to(faults::ping)),
    };
    config
        .service(resource.default_service(web::to(method_not_allowed)))
        .default_service(web::to(not_found));
}

/// The guards of actix collect, in each request, the methods that there are.
fn is_get_or_head(context: &GuardContext<'_>) -> bool {
    matches!(context.head().method, Method::GET | Method::HEAD)
}

/// `pong`.
pub async fn ping() -> HttpResponse {
    let mut response = HttpResponse::with_body(StatusCode::OK, "pong").map_into_boxed_body();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

async fn method_not_allowed() -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header((ALLOW, "GET, HEAD"))
        .content_type(ContentType::plaintext())
        .body("only GET and HEAD are supported\n")
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .content_type(ContentType::plaintext())
        .body("only /ping is served here\n")
}
