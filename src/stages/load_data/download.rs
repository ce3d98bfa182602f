//! Downloads a file. It appears only when it is complete and has the right checksum.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// Limit for resolving a host, connecting, the answer, and a stalled transfer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit for a whole file.
const WHOLE: Duration = Duration::from_secs(1800);

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    /// No connection, no such address, a timeout.
    #[error("{0}")]
    Http(#[from] ureq::Error),
    /// The transfer broke off, or the file can't be written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is not the published one.
    #[error("the downloaded file is not the published one: it has SHA-256 {found}, not {wanted}")]
    Sum {
        /// The checksum of the received bytes.
        found: String,
        /// The published checksum.
        wanted: String,
    },
    /// The server sent more bytes than the file may have.
    #[error("the server sent more than {limit} bytes")]
    TooLong {
        /// See [`Wanted::limit`].
        limit: u64,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What to fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Where it is.
    pub(super) url: &'a str,
    /// SHA-256 of the file as it is there.
    pub(super) sha256: &'a str,
    /// The most bytes it may have.
    pub(super) limit: u64,
}

/// Fetches a file into `target` and creates its folder. The file appears under its name only when it is complete and
/// has the right checksum. Several processes may do this at the same time. `progress` gets the bytes so far and in
/// total (0 if the server does not say), and returns whether to go on.
///
/// # Errors
/// See [`DownloadError`]. Without a network it fails within seconds.
pub(super) fn download(
    wanted: Wanted<'_>,
    target: &Path,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(), DownloadError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = crate::file::temporary(folder)?;

    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_resolve(Some(PATIENCE))
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .timeout_global(Some(WHOLE))
        .build()
        .into();
    let mut response = agent.get(wanted.url).call()?;
    let total = response.body().content_length().unwrap_or(0);
    let mut body = response.body_mut().with_config().limit(wanted.limit + 1).reader();
    let (mut sum, mut done, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        if !progress(done, total) {
            return Err(DownloadError::Interrupted);
        }
        let n = body.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        done += n as u64;
        if done > wanted.limit {
            return Err(DownloadError::TooLong { limit: wanted.limit });
        }
        sum.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
    }
    let found = hex::encode(sum.finalize());
    if found != wanted.sha256 {
        return Err(DownloadError::Sum { found, wanted: wanted.sha256.to_owned() });
    }
    file.as_file().sync_all()?;
    file.persist(target).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// A server for as many requests as there are answers. Returns its address.
    pub(crate) fn serve(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for body in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        address
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_right_file_arrives_whole_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/file.gz");
        let body = vec![42; 200_000];
        let url = serve(vec![body.clone()]);
        let sha256 = hex::encode(Sha256::digest(&body));
        let mut seen = vec![];
        download(Wanted { url: &url, sha256: &sha256, limit: 200_000 }, &target, &mut |done, total| {
            seen.push((done, total));
            true
        })
        .unwrap();
        assert_eq!(fs::read(&target).unwrap(), body);
        assert_eq!(names(target.parent().unwrap()), ["file.gz"]);
        assert_eq!(seen.first(), Some(&(0, 200_000)));
        assert_eq!(seen.last(), Some(&(200_000, 200_000)));
    }

    #[test]
    fn a_wrong_or_too_long_file_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file.gz");
        let url = serve(vec![b"please log in".to_vec(), vec![0; 100], vec![0; 100]]);
        let fetch = |limit, go_on| {
            download(Wanted { url: &url, sha256: "00ff", limit }, &target, &mut |_, _| go_on).unwrap_err()
        };
        let wrong = fetch(100, true).to_string();
        assert!(
            wrong.starts_with("the downloaded file is not the published one: it has SHA-256 ")
                && wrong.ends_with(", not 00ff")
        );
        assert!(matches!(fetch(99, true), DownloadError::TooLong { limit: 99 }), "one byte too many");
        assert!(matches!(fetch(100, false), DownloadError::Interrupted));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn refused_connection_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let error = download(Wanted { url: &url, sha256: "", limit: 1 }, &folder.path().join("x"), &mut |_, _| true);
        assert!(matches!(error, Err(DownloadError::Http(_) | DownloadError::Io(_))), "{error:?}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
