//! Who may use the server: the one place that decides, in front of every route.
//!
//! The page shows results and logs of its user, so no other user of the machine, no other site in the browser and no
//! other machine may read it. As Jupyter does:
//!
//! - The `Host` of each request must be a name of this machine's loopback address. A foreign site that lets its own
//!   name point to 127.0.0.1 (DNS rebinding) is refused. The port may be any, as `ssh -L` may use another one.
//! - A request with an `Origin` must come from a page of this server, and so must one with `Sec-Fetch-Site`, unless it
//!   follows a link.
//! - Each request must carry the token: as a cookie, as `Authorization: Bearer`, or as `/?token=`, the address that the
//!   program prints. There it is exchanged for a cookie with `SameSite=Strict` and `HttpOnly`.
//! - Only GET and HEAD are allowed, and PUT for the notes of users. A PUT needs an `Origin` or `Authorization`: a
//!   cookie alone does not show that a page of this server makes the request.
//! - The page may load only what this server sends. No script, style or event handler in its HTML is run.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::error::{Error, Result};

/// What the page may load and run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Names of the loopback address.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// How the name of the cookie begins. The port of the server follows, as the browser knows it.
const COOKIE_PREFIX: &str = "vadpipe-";

/// Decides about requests.
#[derive(Debug)]
pub(super) struct Guard {
    token: String,
    /// Names by which this machine may be addressed.
    hosts: Vec<String>,
}

impl Guard {
    /// A guard with a new token. `hosts` are names of this machine besides those of the loopback address.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(super) fn new(hosts: Vec<String>) -> Result<Self> {
        let mut bytes = [0; 24];
        let failed = |_| Error::storage("the system has no random numbers");
        SystemRandom::new().fill(&mut bytes).map_err(failed)?;
        let token = hex::encode(bytes);
        let loopback = LOOPBACK.iter().map(|name| (*name).to_owned());
        Ok(Self { token, hosts: loopback.chain(hosts).collect() })
    }

    /// The token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Refuses a request, with the reason.
    fn refuse(&self, request: &Request) -> Option<(StatusCode, &'static str)> {
        let headers = request.headers();
        let Some(host) = host(request) else { return Some((StatusCode::BAD_REQUEST, "the request has no host")) };
        if !self.hosts.iter().any(|known| known.eq_ignore_ascii_case(without_port(host))) {
            return Some((StatusCode::FORBIDDEN, "this server does not answer for that host: name it with `--host`"));
        }
        let is_own = |origin: &HeaderValue| {
            origin.to_str().is_ok_and(|origin| origin.strip_prefix("http://").is_some_and(|o| o == host))
        };
        if headers.get_all(ORIGIN).iter().any(|origin| !is_own(origin)) {
            return Some((StatusCode::FORBIDDEN, "the request comes from a page of another site"));
        }
        if comes_from_elsewhere(headers) {
            return Some((StatusCode::FORBIDDEN, "the request comes from a page of another site"));
        }
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::PUT if is_note(request.uri().path()) => {}
            _ => return Some((StatusCode::METHOD_NOT_ALLOWED, "this server answers GET and HEAD, and PUT for notes")),
        }
        let given = self.in_query(request) || self.in_cookie(headers) || self.in_authorization(headers);
        if !given {
            let why = "the token is missing or wrong: open the address that `vadpipe ui` printed";
            return Some((StatusCode::UNAUTHORIZED, why));
        }
        let is_ours = headers.contains_key(ORIGIN) || self.in_authorization(headers);
        let why = "a change needs an `Origin` or `Authorization`";
        (*request.method() == Method::PUT && !is_ours).then_some((StatusCode::FORBIDDEN, why))
    }

    fn is_token(&self, given: &str) -> bool {
        // The comparison of digests takes the same time wherever the texts differ.
        blake3::hash(given.as_bytes()) == blake3::hash(self.token.as_bytes())
    }

    /// Whether the request is for the address that was printed: only that one has the token in its query.
    fn in_query(&self, request: &Request) -> bool {
        if request.uri().path() != "/" {
            return false;
        }
        let query = request.uri().query().unwrap_or_default();
        query.split('&').any(|part| part.strip_prefix("token=").is_some_and(|token| self.is_token(token)))
    }

    fn in_cookie(&self, headers: &HeaderMap) -> bool {
        let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name.starts_with(COOKIE_PREFIX) && self.is_token(value))
    }

    fn in_authorization(&self, headers: &HeaderMap) -> bool {
        let text = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        text.and_then(|text| text.strip_prefix("Bearer ")).is_some_and(|token| self.is_token(token))
    }

    /// The answer to the printed address: sets the cookie and opens the page without the token in its address. The page
    /// itself goes on, because a browser sends no strict cookie after a redirection that another site began.
    fn exchange(&self, request: &Request) -> Response {
        let page = "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" \
                    content=\"0;url=/\"><link rel=\"icon\" href=\"data:,\"><title>vadpipe</title><p><a href=\"/\">Open the page</a></p></html>";
        // Browsers send cookies to all ports of a host. A later server on this port replaces the cookie.
        let port = host(request).and_then(|host| host.strip_prefix(without_port(host))?.strip_prefix(':'));
        let name = format!("{COOKIE_PREFIX}{}", port.unwrap_or("80"));
        let cookie = format!("{name}={}; Path=/; HttpOnly; SameSite=Strict", self.token);
        let mut response = Response::new(Body::from(page));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        response
    }
}

/// Whether a browser says that a page of another site, or of another port of this machine, makes the request. A link to
/// the page may be followed.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name: &str, known: &[&str]| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| known.iter().any(|known| value.as_bytes() == known.as_bytes()))
    };
    is("sec-fetch-site", &["same-site", "cross-site"]) && !is("sec-fetch-mode", &["navigate"])
}

/// Whether this is the address of a note, which may be changed.
fn is_note(path: &str) -> bool {
    path.starts_with("/api/points/") && path.ends_with("/note")
}

/// The host that a request names.
fn host(request: &Request) -> Option<&str> {
    let mut named = request.headers().get_all(HOST).iter();
    let host = named.next()?.to_str().ok()?;
    named.next().is_none().then_some(host)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The middleware in front of all routes.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.refuse(&request) {
        Some((status, why)) => {
            let mut response = Response::new(Body::from(format!("{why}\n")));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        }
        None if guard.in_query(&request) => guard.exchange(&request),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    let always = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A file of a program has a stricter one.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    response
}
