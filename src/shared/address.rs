//! The address of a shared store, and how it is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use super::error::{Result, SharedError};
use super::variables::Variables;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use super::variables::hidden;

/// Where a shared store is.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    kind: Kind,
    /// As the user gave it, without a password or a query.
    text: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Folder(PathBuf),
    Memory,
    Url { scheme: Scheme, url: String, below: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Gcs,
    Azure,
}

const FORMS: &str = "an address is a folder, `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `az://CONTAINER/PATH`";

/// The kinds of stores in addresses.
const SCHEMES: [&str; 9] = ["file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory"];

impl Address {
    /// Reads an address: a folder, `file:///FOLDER`, `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `az://CONTAINER/PATH`, or
    /// `memory:` for a store that lives as long as the process. A relative folder is one of `base`.
    ///
    /// # Errors
    /// If it is none of these, or names no bucket.
    pub fn parse(text: &str, base: &Path) -> Result<Self> {
        let shown = without_secrets(text);
        let wrong = |why: &str| SharedError::unusable(format!("`{shown}` is not the address of a store: {why}"), FORMS);
        if text.trim().is_empty() {
            return Err(wrong("it is empty"));
        }
        if text == "memory:" {
            return Ok(Self { kind: Kind::Memory, text: shown });
        }
        if text.split_once(':').is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) && !text.contains("://") {
            return Err(wrong("after the kind of store comes `://`"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self { kind: Kind::Folder(base.join(text)), text: shown });
        };
        let scheme = match scheme {
            "file" if rest.starts_with('/') => return Ok(Self { kind: Kind::Folder(rest.into()), text: shown }),
            "file" => return Err(wrong("a folder after `file://` begins with `/`")),
            "s3" | "s3a" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" | "azure" | "abfs" | "abfss" => Scheme::Azure,
            other => return Err(wrong(&format!("no kind of store is called `{other}`"))),
        };
        if rest.contains(['?', '#']) || rest.split('/').next().is_some_and(|host| host.contains(':')) {
            return Err(wrong("credentials and options belong in the environment"));
        }
        let (bucket, below) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        let below = below.trim_matches('/').to_owned();
        let url = text.split_once("://").map(|(scheme, _)| format!("{scheme}://{bucket}")).unwrap_or_default();
        Ok(Self { kind: Kind::Url { scheme, url, below }, text: shown })
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Folder(folder) => Some(folder),
            Kind::Memory | Kind::Url { .. } => None,
        }
    }

    /// Opens the store. Also returns the path in it. Makes no request.
    ///
    /// # Errors
    /// If this program was built without this kind of store, or if settings are missing or wrong.
    pub(super) fn open(&self, variables: &Variables) -> Result<(Arc<dyn ObjectStore>, object_store::path::Path)> {
        let path = |text: &str| {
            let parsed = object_store::path::Path::parse(text);
            parsed.map_err(|_| SharedError::unusable(format!("`{self}` is not the path of a store"), FORMS))
        };
        match &self.kind {
            Kind::Memory => Ok((Arc::new(InMemory::new()), path("")?)),
            Kind::Folder(folder) => {
                let folder = without_parents(&std::path::absolute(folder).unwrap_or_else(|_| folder.clone()));
                let below = object_store::path::Path::from_absolute_path(&folder);
                let below = below
                    .map_err(|_| SharedError::unusable(format!("`{self}` can't be the folder of a store"), FORMS))?;
                // Claims come and go, and would leave their folders.
                let files = LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true);
                Ok((Arc::new(files), below))
            }
            Kind::Url { scheme, url, below } => Ok((self.open_url(*scheme, url, variables)?, path(below)?)),
        }
    }

    fn open_url(&self, scheme: Scheme, url: &str, variables: &Variables) -> Result<Arc<dyn ObjectStore>> {
        match scheme {
            #[cfg(feature = "s3")]
            Scheme::S3 => super::cloud::s3(url, variables).map_err(|why| self.wrong_settings(&why, variables)),
            #[cfg(feature = "gcs")]
            Scheme::Gcs => super::cloud::gcs(url, variables).map_err(|why| self.wrong_settings(&why, variables)),
            #[cfg(feature = "azure")]
            Scheme::Azure => super::cloud::azure(url, variables).map_err(|why| self.wrong_settings(&why, variables)),
            #[cfg(not(feature = "s3"))]
            Scheme::S3 => Err(self.not_built_in("s3", url, variables)),
            #[cfg(not(feature = "gcs"))]
            Scheme::Gcs => Err(self.not_built_in("gcs", url, variables)),
            #[cfg(not(feature = "azure"))]
            Scheme::Azure => Err(self.not_built_in("azure", url, variables)),
        }
    }

    #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
    fn not_built_in(&self, feature: &str, _url: &str, _variables: &Variables) -> SharedError {
        SharedError::unusable(
            format!("can't use {self}: this vadpipe was built without the feature `{feature}`"),
            "the Python package has all kinds of stores; with cargo: `cargo install vadpipe --features s3`",
        )
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    fn wrong_settings(&self, why: &str, variables: &Variables) -> SharedError {
        SharedError::unusable(
            format!("can't use {self}: {}", hidden(why, variables)),
            "docs/shared-store.md lists the settings",
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A path without `..`, as far as its folders exist.
fn without_parents(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    match existing {
        Some((folder, real)) => path.strip_prefix(folder).map_or_else(|_| path.to_owned(), |below| real.join(below)),
        None => path.to_owned(),
    }
}

/// An address without user, password, query and fragment.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let host = host.rsplit('@').next().unwrap_or_default();
            path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Address::parse(text, Path::new("/base"));
        assert_eq!(parse("store").unwrap().folder(), Some(Path::new("/base/store")));
        assert_eq!(parse("file:///a b").unwrap().folder(), Some(Path::new("/a b")));
        assert_eq!(parse("s3://team/vadpipe/").unwrap().to_string(), "s3://team/vadpipe/");
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(refused(""), "`` is not the address of a store: it is empty");
        assert_eq!(refused("s3://"), "`s3://` is not the address of a store: it names no bucket");
        assert_eq!(
            refused("ftp://me:secret@host/x?token=secret"),
            "`ftp://host/x` is not the address of a store: no kind of store is called `ftp`"
        );
        let secret = refused("s3://AKIA:secret@bucket/x");
        assert!(secret.contains("`s3://bucket/x`") && !secret.contains("AKIA"), "{secret}");
        assert!(refused("file://x").contains("begins with `/`"));
    }
}
