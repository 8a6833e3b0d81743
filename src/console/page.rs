//! The files of the page, and what every answer tells the browser: to run nothing and ask nobody but this.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    middleware::map_response,
    response::{Redirect, Response},
    routing::get,
};

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers of each answer. Nothing is kept: neither figures of a moment ago nor the page of an older release.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The files: where each is served, what it is, and its content.
macro_rules! assets {
    ($($name:literal: $kind:literal;)+) => {
        pub(super) const ASSETS: &[(&str, &str, &str)] = &[
            $((concat!("/console/", $name), $kind, include_str!(concat!("assets/", $name))),)+
        ];
    };
}

const PAGE: (&str, &str) = (
    "text/html; charset=utf-8",
    include_str!("assets/index.html"),
);

assets! {
    "style.css": "text/css; charset=utf-8";
    "activity.js": "text/javascript; charset=utf-8";
    "app.js": "text/javascript; charset=utf-8";
    "dom.js": "text/javascript; charset=utf-8";
    "heat.js": "text/javascript; charset=utf-8";
    "overview.js": "text/javascript; charset=utf-8";
    "shards.js": "text/javascript; charset=utf-8";
    "icon.svg": "image/svg+xml";
}

/// The page and its files.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let file = |kind, content| move || async move { ([(header::CONTENT_TYPE, kind)], content) };
    let page = Router::new()
        .route(
            "/console",
            get(|| async { Redirect::permanent("/console/") }),
        )
        .route("/console/", get(file(PAGE.0, PAGE.1)));
    ASSETS.iter().fold(page, |router, (path, kind, content)| {
        router.route(path, get(file(kind, content)))
    })
}

/// Has all answers of a router carry the headers.
pub(super) fn guarded<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(map_response(async |mut answer: Response| {
        for (name, value) in HEADERS {
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        answer
    }))
}
