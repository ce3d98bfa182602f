//! S3 servers on loopback: moto, and stubs that are busy or silent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::Value;

/// A server, which ends when this is dropped.
pub(super) struct Moto {
    pub(super) endpoint: String,
    users: Value,
    process: Child,
}

impl Moto {
    /// A server that accepts any credentials.
    pub(super) fn start() -> Self {
        Self::with("open", &["team", "large", "race", "thesis", "busy"])
    }

    /// A server that other hosts reach.
    pub(super) fn on_all_interfaces() -> Self {
        Self::with("all", &["team"])
    }

    /// A server that checks them. It has the users `writer`, `reader` and `stranger`.
    pub(super) fn with_users() -> Self {
        Self::with("users", &["guarded"])
    }

    fn with(kind: &str, buckets: &[&str]) -> Self {
        let python = std::env::var_os("VADPIPE_MOTO").expect("VADPIPE_MOTO names a Python that has moto[server]");
        let mut command = Command::new(python);
        command.args(["-c", include_str!("moto_server.py"), kind]).args(buckets);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("Python starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let started: Value = serde_json::from_str(&line).expect("moto starts");
        let endpoint = started["endpoint"].as_str().expect("text").to_owned();
        Self { endpoint, users: started["users"].clone(), process }
    }

    /// The credentials of a user.
    pub(super) fn user(&self, name: &str) -> (String, String) {
        let text = |i: usize| self.users[name][i].as_str().expect("text").to_owned();
        (text(0), text(1))
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.endpoint.trim_start_matches("http://")).expect("the server listens")
    }

    /// What the server answers to a request without a signature.
    pub(super) fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Calls this with each connection and its number. Returns the address.
fn serve(answer: impl Fn(usize, TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            answer(number, stream.expect("a connection"));
        }
    });
    format!("http://{address}")
}

/// Reads a request, and answers that the server is busy.
fn refuse(mut stream: TcpStream) {
    let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let mut buffer = [0; 1 << 16];
    let _ = stream.read(&mut buffer);
    let head = "HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Type: application/xml";
    let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.shutdown(Shutdown::Write);
    // Otherwise what the client still sends resets the connection before it reads the answer.
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

/// A server that is busy for the first requests, and for a third of the later ones.
pub(super) fn busy_for_a_while(moto: &Moto) -> String {
    let server = moto.endpoint.trim_start_matches("http://").to_owned();
    serve(move |number, client| {
        if number < 3 || number % 3 == 0 {
            thread::spawn(|| refuse(client));
            return;
        }
        let server = TcpStream::connect(&server).expect("the server listens");
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            })
        };
        copy(client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
        copy(server, client);
    })
}

/// A server that is always busy.
pub(super) fn always_busy() -> String {
    serve(|_, client| drop(thread::spawn(|| refuse(client))))
}

/// A server that takes requests and never answers.
pub(super) fn silent() -> String {
    let kept = std::sync::Mutex::new(Vec::new());
    serve(move |_, client| kept.lock().expect("no panic").push(client))
}
