//! Fashion-MNIST: finds its files, downloads them, and checks that they are the published ones.
//!
//! Xiao, Rasul and Vollgraf, *Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms*, 2017
//! (arXiv:1708.07747). The addresses are those of the data set's own page, an S3 website with plain HTTP only; the
//! checksums authenticate the files. Those of the decompressed files enter keys, so that a plan reads no file, and
//! gzipped and plain copies have the same key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::download::{DownloadError, Wanted, download};
use super::idx::{self, Form, Idx};
use crate::key::Digest;
use crate::stage::{Context, StageError, Update};

/// The names of its classes, by label.
pub const CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Where the files are published.
const OFFICIAL: &str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com";
/// The subfolder of a data folder for these files.
const FOLDER: &str = "fashion-mnist";
/// The most bytes of a download; the largest gzipped file has 26 MB.
const LIMIT: u64 = 64 << 20;

/// A file of the data set.
struct Published {
    /// Its name, without `.gz`.
    name: &'static str,
    /// Images or labels.
    form: Form,
    /// SHA-256 of the decompressed file.
    plain: &'static str,
    /// SHA-256 of the file as published.
    gzipped: &'static str,
}

const FILES: [Published; 4] = [
    Published {
        name: "train-images-idx3-ubyte",
        form: Form::Images,
        plain: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        gzipped: "f46450982819e161325683178a5324fc64e606fb3758c65c6ca7dcc91aa489fd",
    },
    Published {
        name: "train-labels-idx1-ubyte",
        form: Form::Labels,
        plain: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        gzipped: "bee2410e017aef275ad0716cfa389481fe80dd89f974536e863d982da161f14c",
    },
    Published {
        name: "t10k-images-idx3-ubyte",
        form: Form::Images,
        plain: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        gzipped: "55ec2dd7358c56fba81678bf2cd00a44de07bae64c342921600298a2b5eb517d",
    },
    Published {
        name: "t10k-labels-idx1-ubyte",
        form: Form::Labels,
        plain: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        gzipped: "bad34aa92450454a281e4959ab5a22f03213e21212f4261dadf52e42fa6cd580",
    },
];

/// The digests that enter the key of a stage that reads the data set: the published checksums. Reads nothing.
pub fn contents(test: bool) -> BTreeMap<String, Digest> {
    needed(test).filter_map(|f| Some((f.name.to_owned(), f.plain.parse().ok()?))).collect()
}

/// The images and labels of a split. Searches `path`, then the data folders; downloads the files if they are in none.
///
/// # Errors
/// If they are not found and can't be downloaded, or are not the published ones.
pub fn open(context: &Context<'_>, path: Option<&str>, test: bool) -> Result<Vec<(Idx, PathBuf)>, StageError> {
    let places = Places::new(path.map(|p| context.base.join(p)), context.data_dirs);
    needed(test)
        .map(|file| {
            context.cancel.check()?;
            let path = match places.find(file.name) {
                Some(path) => path,
                None => fetch(context, &places, file, OFFICIAL)?,
            };
            let hint = "remove the file; it is then downloaded again";
            let idx = idx::open(&path, file.form).map_err(|e| e.in_file(&path, Some(hint)))?;
            verify(file, &path, &idx)?;
            Ok((idx, path))
        })
        .collect()
}

fn needed(test: bool) -> impl Iterator<Item = &'static Published> {
    FILES.iter().take(if test { 4 } else { 2 })
}

fn verify(file: &Published, path: &Path, idx: &Idx) -> Result<(), StageError> {
    let found = hex::encode(idx.sha256);
    if found == file.plain {
        return Ok(());
    }
    Err(StageError::bad_input(
        format!(
            "{} is not the published {}: its decompressed bytes have SHA-256 {found}, not {}",
            path.display(),
            file.name,
            file.plain
        ),
        "remove the file, so that it is downloaded again; for other data in this format write `source = \"idx\"`",
    ))
}

/// The folders to search, and the folder for downloads.
#[derive(Debug)]
struct Places {
    searched: Vec<PathBuf>,
    target: Option<PathBuf>,
}

impl Places {
    /// The pipeline's own folder first. Each folder is searched itself and in its subfolder; downloads go into the
    /// subfolder of the last data folder, never into one that the pipeline names.
    fn new(own: Option<PathBuf>, data_dirs: &[PathBuf]) -> Self {
        let mut searched: Vec<PathBuf> = vec![];
        for folder in own.iter().chain(data_dirs) {
            for place in [folder.clone(), folder.join(FOLDER)] {
                if !searched.contains(&place) {
                    searched.push(place);
                }
            }
        }
        Self { searched, target: data_dirs.last().map(|d| d.join(FOLDER)) }
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let special = || self.searched.iter().find_map(|place| idx::find_special(place, name));
        self.searched.iter().find_map(|place| idx::find(place, name)).or_else(special)
    }

    /// The error about a missing file: where it was searched for, why the download failed, and what to do.
    fn not_found(&self, name: &str, why: &str) -> StageError {
        let mut message = format!("Fashion-MNIST was not found: looked for {name} and {name}.gz in\n");
        for place in &self.searched {
            message.push_str(&format!("  {}\n", place.display()));
        }
        message.push_str(why);
        StageError::bad_input(
            message,
            "name the folder that holds the four files with `--data-dir DIR` or VADPIPE_DATA_DIR, or use drawn \
             garments instead: `source = \"synthetic\"`",
        )
    }
}

fn fetch(context: &Context<'_>, places: &Places, file: &Published, from: &str) -> Result<PathBuf, StageError> {
    let Some(target) = &places.target else {
        return Err(places.not_found(file.name, "and there is no data folder to download it to"));
    };
    let name = format!("{}.gz", file.name);
    let (url, target) = (format!("{from}/{name}"), target.join(&name));
    context.progress.log(&format!("downloading {url} to {}", target.display()));
    let wanted = Wanted { url: &url, sha256: file.gzipped, limit: LIMIT };
    let outcome = download(wanted, &target, &mut |done, total| {
        let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
        context.progress.update(Update {
            done: megabytes(done),
            total: megabytes(total),
            unit: "MB",
            figures: vec![],
            rate: None,
            epoch_end: false,
        });
        !context.cancel.is_cancelled()
    });
    match outcome {
        Ok(()) => Ok(target),
        Err(DownloadError::Interrupted) => Err(StageError::Interrupted),
        Err(e) => Err(places.not_found(file.name, &format!("and {url} could not be downloaded: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::download::tests::serve;
    use super::super::idx::tests::{gzip, labels};
    use super::*;
    use crate::rng::Streams;
    use crate::stage::{Cancel, Inputs, Progress};

    struct Silent;

    impl Progress for Silent {
        fn update(&self, _: Update) {}
        fn log(&self, _: &str) {}
    }

    /// Fetches the first file into a folder, and returns the message and the hint with placeholders for the folder and
    /// the address.
    fn fetch_from(address: &str, base: &Path, data_dirs: &[PathBuf], cancel: &Cancel) -> Result<PathBuf, String> {
        let context = Context {
            version: 1,
            inputs: Inputs::default(),
            streams: Streams::new(0),
            precision: crate::stage::Precision::F32,
            device: &crate::stage::Device::Cpu,
            gpus: &[],
            scratch: base,
            base,
            mirror: None,
            dep_file: None,
            checkpoint: None,
            data_dirs,
            log_path: base,
            progress: &Silent,
            cancel,
            chain: None,
            program_chain: None,
        };
        let places = Places::new(Some(base.join("own")), data_dirs);
        let plain = |text: String| text.replace(address, "URL").replace(base.to_str().unwrap(), "BASE");
        fetch(&context, &places, &FILES[0], address).map_err(|e| match e {
            StageError::BadInput { message, hint } => plain(format!("{message} ({})", hint.unwrap_or_default())),
            other => plain(other.to_string()),
        })
    }

    #[test]
    fn failed_download_error_lists_searched_folders_and_hint() {
        let base = tempfile::tempdir().unwrap();
        let address = serve(vec![b"please log in".to_vec()]);
        let dirs = [base.path().join("data")];
        let message = fetch_from(&address, base.path(), &dirs, &Cancel::default()).unwrap_err();
        insta::assert_snapshot!(message, @r#"
Fashion-MNIST was not found: looked for train-images-idx3-ubyte and train-images-idx3-ubyte.gz in
  BASE/own
  BASE/own/fashion-mnist
  BASE/data
  BASE/data/fashion-mnist
and URL/train-images-idx3-ubyte.gz could not be downloaded: the downloaded file is not the published one: it has SHA-256 1161470704ceabf8f9b6b67f60f578e57a307ddac84f5bcbc1aae9fb55fffc46, not f46450982819e161325683178a5324fc64e606fb3758c65c6ca7dcc91aa489fd (name the folder that holds the four files with `--data-dir DIR` or VADPIPE_DATA_DIR, or use drawn garments instead: `source = "synthetic"`)
"#);
        let message = fetch_from(&address, base.path(), &[], &Cancel::default()).unwrap_err();
        insta::assert_snapshot!(message, @r#"
Fashion-MNIST was not found: looked for train-images-idx3-ubyte and train-images-idx3-ubyte.gz in
  BASE/own
  BASE/own/fashion-mnist
and there is no data folder to download it to (name the folder that holds the four files with `--data-dir DIR` or VADPIPE_DATA_DIR, or use drawn garments instead: `source = "synthetic"`)
"#);
    }

    #[test]
    fn a_download_can_be_interrupted() {
        let base = tempfile::tempdir().unwrap();
        let address = serve(vec![gzip(&labels(&[1, 2]))]);
        let cancel = Cancel::default();
        cancel.cancel();
        let dirs = [base.path().to_owned()];
        assert_eq!(fetch_from(&address, base.path(), &dirs, &cancel).unwrap_err(), "interrupted");
        assert_eq!(std::fs::read_dir(base.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn folders_are_searched_in_order_and_so_are_their_subfolders() {
        let base = tempfile::tempdir().unwrap();
        let dirs = [base.path().join("a"), base.path().join("b")];
        std::fs::create_dir_all(dirs[1].join(FOLDER)).unwrap();
        std::fs::write(dirs[1].join(FOLDER).join("x.gz"), b"").unwrap();
        let places = Places::new(Some(base.path().join("own")), &dirs);
        assert_eq!(places.find("x"), Some(dirs[1].join(FOLDER).join("x.gz")));
        std::fs::create_dir_all(&dirs[0]).unwrap();
        std::fs::write(dirs[0].join("x"), b"").unwrap();
        assert_eq!(places.find("x"), Some(dirs[0].join("x")), "earlier folders and plain files come first");
        assert_eq!(places.target, Some(dirs[1].join(FOLDER)), "downloads go into the last");
    }
}
