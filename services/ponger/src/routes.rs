//! The responses.

use actix_web::{
    HttpResponse,
    http::header::{ALLOW, ContentType},
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
    let resource = match faults {
        None => web::resource(PING).route(web::get().to(ping)).route(web::head().to(ping)),
        Some(faults) => web::resource(PING)
            .app_data(faults.clone())
            .route(web::get().to(faults::ping))
            .route(web::head().to(faults::ping)),
    };
    config
        .service(resource.default_service(web::to(method_not_allowed)))
        .default_service(web::to(not_found));
}

/// `pong`.
pub async fn ping() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("pong")
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
