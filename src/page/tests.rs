//! The server, over a socket.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::routes;
use super::server::{Server, Settings};
use crate::stages::builtin;
use crate::store::tests::{artifact, commit, components, store};
use crate::store::{CacheReader, host_name};

/// A server with a small cache.
struct Running {
    /// The host in the printed address.
    name: String,
    port: u16,
    token: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        Self::listen(Ipv4Addr::LOCALHOST, vec![])
    }

    fn listen(address: Ipv4Addr, hosts: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        commit(&store(dir.path()), "net@lr=0.1", &components("a", 1), &artifact(1, 100));
        let settings = Settings {
            address: address.into(),
            port: 0,
            hosts,
            cache: CacheReader::open(dir.path()).unwrap(),
            pipelines: vec![],
            remote: None,
            registry: Arc::new(builtin()),
        };
        let server = Server::bind(settings).unwrap();
        let url = server.url().unwrap();
        let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
        let (name, port) = address.rsplit_once(':').unwrap();
        let (name, port, token) = (name.to_owned(), port.parse().unwrap(), token.to_owned());
        let (stop, stopped) = oneshot::channel();
        let thread = Some(std::thread::spawn(move || server.run(stopped).unwrap()));
        Self { name, port, token, stop: Some(stop), thread, _dir: dir }
    }

    /// The status and the answer to a request with these lines after the first one.
    fn request(&self, first: &str, headers: &[&str]) -> (u16, String) {
        self.send(first, headers, "")
    }

    /// The status and the answer to a request with this body.
    fn send(&self, first: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(stream, "{first} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n{body}").unwrap();
        let mut answer = Vec::new();
        // Streams of events have no end: their head is enough.
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") || !first.contains("/api/events") {
            let mut part = [0; 4096];
            match stream.read(&mut part).unwrap() {
                0 => break,
                read => answer.extend_from_slice(&part[..read]),
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }

    fn host(&self) -> String {
        format!("Host: {}:{}", self.name, self.port)
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Every address that the server knows, with values for its parts, and two that it does not know.
fn addresses() -> Vec<String> {
    let known = routes::all().into_iter().map(|(path, _)| {
        let path = path.replace("{number}", "0").replace("{name}", "page.css");
        match path.rsplit('/').next() {
            Some("chain" | "graph") => format!("{path}?pipeline=p"),
            Some("image" | "file") => format!("{path}?name=x"),
            _ => path,
        }
    });
    known.chain(["/none".to_owned(), "/../etc/passwd".to_owned()]).collect()
}

#[test]
fn every_route_refuses_a_foreign_host_a_foreign_origin_and_a_missing_token() {
    let server = Running::start();
    let (host, bearer) = (server.host(), server.bearer());
    let own = format!("Origin: http://127.0.0.1:{}", server.port);
    for address in addresses() {
        let get = format!("GET {address}");
        let status = |first: &str, headers: &[&str]| server.request(first, headers).0;
        assert!([200, 404, 422].contains(&status(&get, &[&host, &bearer])), "{address} with the token");
        assert!([200, 404, 422].contains(&status(&get, &[&host, &bearer, &own])), "{address} from its own page");
        for foreign in ["Host: evil.example", "Host: 127.0.0.1.evil.example:80", "Host: localhost.", "Host: 0.0.0.0"] {
            assert_eq!(status(&get, &[foreign, &bearer]), 403, "{address}: {foreign}");
        }
        assert_eq!(status(&get, &[&bearer]), 400, "{address} without a host");
        assert_eq!(status(&get, &[&host, "Host: evil.example", &bearer]), 400, "{address} with two hosts");
        let other_port = format!("Origin: http://127.0.0.1:{}", server.port.wrapping_add(1));
        for foreign in ["Origin: http://evil.example", "Origin: null", "Origin: https://127.0.0.1", &other_port] {
            assert_eq!(status(&get, &[&host, &bearer, foreign]), 403, "{address}: {foreign}");
        }
        let wrong = format!("{bearer}0");
        for missing in [&[host.as_str()][..], &[&host, &wrong], &[&host, "Cookie: vadpipe=1; token=2"]] {
            assert_eq!(status(&get, missing), 401, "{address}: {missing:?}");
        }
        let with_token =
            format!("GET {address}{}token={}", if address.contains('?') { '&' } else { '?' }, server.token);
        assert_eq!(status(&with_token, &[&host]), if address == "/" { 200 } else { 401 }, "{with_token}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let may_change = method == "PUT" && address.ends_with("/note");
            let expected = if may_change { 415 } else { 405 };
            assert_eq!(status(&format!("{method} {address}"), &[&host, &bearer]), expected, "{method} {address}");
        }
    }
}

#[test]
fn note_is_changed_by_the_page_or_with_the_token_and_by_nobody_else() {
    let server = Running::start();
    let (host, bearer) = (server.host(), server.bearer());
    let cookie = format!("Cookie: vadpipe-{}={}", server.port, server.token);
    let own = format!("Origin: http://127.0.0.1:{}", server.port);
    let put = |headers: &[&str], body: &str| {
        let length = format!("Content-Length: {}", body.len());
        let headers = [headers, &["Content-Type: application/json", &length]].concat();
        server.send("PUT /api/points/0/note", &headers, body)
    };
    let tag = r#"{ "add": ["best"] }"#;
    assert_eq!(put(&[&host], tag).0, 401);
    assert_eq!(put(&["Host: evil.example", &bearer], tag).0, 403);
    assert_eq!(put(&[&host, &cookie], tag).0, 403, "a form of another site could send the cookie");
    for foreign in ["Origin: http://evil.example", "Origin: null", "Origin: http://127.0.0.1:1"] {
        assert_eq!(put(&[&host, &cookie, foreign], tag).0, 403, "{foreign}");
        assert_eq!(put(&[&host, &bearer, foreign], tag).0, 403, "{foreign}");
    }
    assert!(server.request("GET /api/points/0/note", &[&host, &bearer]).1.contains(r#""tags":[]"#));
    assert_eq!(put(&[&host, &cookie, &own], tag).0, 200);
    assert_eq!(put(&[&host, &bearer], r#"{ "text": "why" }"#).0, 200);
    let (status, refused) = put(&[&host, &bearer], r#"{ "add": ["a,b"] }"#);
    assert!(status == 400 && refused.contains("is not a valid tag"), "{refused}");
    let note = server.request("GET /api/points/0/note", &[&host, &bearer]).1;
    assert!(note.contains(r#""tags":["best"]"#) && note.contains(r#""text":"why""#), "{note}");
    let found = |condition: &str| {
        let get = format!("GET /api/points?ids=true&where={condition}");
        server.request(&get, &[&host, &bearer]).1.contains(r#""ids":[0]"#)
    };
    assert!(found("tag=best") && !found("tag!=best") && !found("tag=be") && found("tag!=be"));
}

#[test]
fn every_answer_says_what_the_page_may_load() {
    let server = Running::start();
    for address in addresses() {
        for headers in [vec![server.host(), server.bearer()], vec![server.host()]] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = server.request(&format!("GET {address}"), &headers).1.to_lowercase();
            for header in [
                "content-security-policy: default-src 'none'",
                "x-content-type-options: nosniff",
                "referrer-policy: no-referrer",
                "cross-origin-resource-policy: same-origin",
                "cache-control: no-store",
            ] {
                assert!(answer.contains(header), "{address} lacks {header}: {answer}");
            }
            assert!(!answer.contains("access-control"), "{address} allows other sites");
        }
    }
}

#[test]
fn token_of_the_printed_address_becomes_a_strict_cookie() {
    let server = Running::start();
    let (status, answer) = server.request(&format!("GET /?token={}", server.token), &[&server.host()]);
    assert_eq!(status, 200);
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(cookie.starts_with(&format!("vadpipe-{}={};", server.port, server.token)), "{cookie}");
    let cookie = format!("Cookie: other=1; {}", cookie.split(';').next().unwrap());
    // Through `ssh -L` the port is another one.
    for host in [server.host(), "Host: localhost:1".to_owned(), "Host: [::1]:8080".to_owned()] {
        let (status, page) = server.request("GET /", &[&host, &cookie]);
        assert!(status == 200 && page.contains("<title>"), "{page}");
    }
    assert_eq!(server.request("GET /api/points", &[&server.host(), &cookie]).0, 200);
}

#[test]
fn page_has_no_inline_script_and_names_only_files_that_exist() {
    let page = super::assets::PAGE;
    assert!(!page.contains("<script>") && !page.contains("style=") && !page.contains(" on"), "{page}");
    for part in page.split("/assets/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(super::assets::find(name).is_some(), "{name}");
    }
    for asset in super::assets::ASSETS.iter().filter(|asset| asset.name.ends_with(".js") && asset.name != "uplot.js") {
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!asset.text.contains(markup), "{} uses {markup}", asset.name);
        }
    }
}

#[test]
fn printed_address_of_a_server_for_all_addresses_is_answered() {
    let name = host_name();
    let server = Running::listen(Ipv4Addr::UNSPECIFIED, vec![name.clone()]);
    assert_eq!(server.name, name);
    assert_eq!(server.request(&format!("GET /?token={}", server.token), &[&server.host()]).0, 200);
    let (status, answer) = server.request("GET /", &["Host: 0.0.0.0", &server.bearer()]);
    assert!(status == 403 && answer.contains("`--host`"), "{answer}");
}

#[test]
fn request_of_a_page_on_another_port_is_refused_and_a_link_is_followed() {
    let server = Running::start();
    let status = |fetch: &[&str]| {
        let (host, bearer) = (server.host(), server.bearer());
        let headers: Vec<&str> = [host.as_str(), &bearer].iter().chain(fetch).copied().collect();
        server.request("GET /api/points", &headers).0
    };
    for site in ["same-site", "cross-site"] {
        let site = format!("Sec-Fetch-Site: {site}");
        assert_eq!(status(&[&site, "Sec-Fetch-Mode: no-cors"]), 403, "{site}");
        assert_eq!(status(&[&site]), 403, "{site}");
        assert_eq!(status(&[&site, "Sec-Fetch-Mode: navigate"]), 200, "{site}");
    }
    for site in ["same-origin", "none"] {
        assert_eq!(status(&[&format!("Sec-Fetch-Site: {site}"), "Sec-Fetch-Mode: cors"]), 200, "{site}");
    }
}
