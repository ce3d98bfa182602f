//! The IDX format of MNIST and its relatives, read from untrusted files.
//!
//! ```text
//! bytes 0–1   0
//! byte  2     element type: 8 = unsigned byte, the only one read here
//! byte  3     number of dimensions: 1 = labels, 3 = images
//! then        one big-endian u32 for each dimension, then the elements, row-major
//! ```
//!
//! A file may be gzipped, which its first bytes show. The size in the header is compared with [`MAX_BYTES`] before the
//! elements are read, and at most one byte more than this size is decompressed, to detect trailing data. So neither a
//! false header nor a gzip bomb takes memory.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::file::{self, FileError};
use crate::stage::StageError;

/// Height and width of every image: what the decoder makes.
pub const SIDE: usize = 28;
/// Pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// The most elements in an IDX file (1.3 million images).
pub const MAX_BYTES: u64 = 1 << 30;

/// What can be wrong with an IDX file.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// The first bytes are not those of such a file.
    #[error("not an IDX file of {what}: it begins with {found:08x}, not {wanted:08x}")]
    Magic {
        /// "images" or "labels".
        what: &'static str,
        /// The first bytes of the file.
        found: u32,
        /// The expected first bytes.
        wanted: u32,
    },
    /// The file ends too early.
    #[error("cut short: the header promises {wanted} bytes of {what}, the file has {found}")]
    Truncated {
        /// "images", "labels" or "header".
        what: &'static str,
        /// How many bytes there should be.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
    /// There are bytes after the last element.
    #[error("the file has more than the {wanted} bytes that the header promises")]
    Trailing {
        /// How many bytes there should be.
        wanted: u64,
    },
    /// The size in the header is above the limit.
    #[error("the header promises {wanted} bytes; the limit is {MAX_BYTES}")]
    TooLarge {
        /// The product of the dimensions.
        wanted: u128,
    },
    /// Images of another size than the decoder's.
    #[error("the images are {height}×{width} pixels; the decoder makes 28×28")]
    Side {
        /// Rows of an image.
        height: u32,
        /// Columns of an image.
        width: u32,
    },
    /// The gzip stream is damaged.
    #[error("the gzip stream is damaged: {0}")]
    Gzip(io::Error),
    /// The system can't read the file.
    #[error("can't be read: {0}")]
    Read(#[from] FileError),
}

impl From<io::Error> for IdxError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        // Errors of the system have a number, errors of the decoder have none.
        let of_decoder = matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof);
        if of_decoder && error.raw_os_error().is_none() { Self::Gzip(error) } else { Self::Read(error.into()) }
    }
}

impl IdxError {
    /// Converts it into an error of the stage. `hint` says what to do about wrong content; it is not for errors of the
    /// system.
    pub(super) fn in_file(self, path: &Path, hint: Option<&str>) -> StageError {
        let message = format!("{}: {self}", path.display());
        match self {
            Self::Read(FileError::Io(source)) if !FileError::is_about_file(&source) => {
                StageError::Io { what: format!("can't read {}", path.display()), source }
            }
            Self::Read(_) => StageError::BadInput { message, hint: None },
            _ => StageError::BadInput { message, hint: hint.map(str::to_owned) },
        }
    }
}

/// The elements of an IDX file and the SHA-256 of its decompressed bytes.
#[derive(Debug)]
pub struct Idx {
    /// The number of images or labels.
    pub count: usize,
    /// The elements: `count` labels, or `count`·784 pixels.
    pub data: Vec<u8>,
    /// SHA-256 of the decompressed file, header included.
    pub sha256: [u8; 32],
}

/// The two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One dimension.
    Labels,
    /// Three dimensions, the last two 28.
    Images,
}

impl Form {
    fn what(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Images => "images",
        }
    }

    fn dimensions(self) -> usize {
        match self {
            Self::Labels => 1,
            Self::Images => 3,
        }
    }
}

/// `folder/name` or `folder/name.gz`, whichever is a regular file.
pub fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    candidates(folder, name).into_iter().find(|p| p.is_file())
}

/// The first of `folder/name` and `folder/name.gz` that exists but is not a regular file: for the message.
pub(super) fn find_special(folder: &Path, name: &str) -> Option<PathBuf> {
    candidates(folder, name).into_iter().find(|p| p.exists() && !p.is_file())
}

fn candidates(folder: &Path, name: &str) -> [PathBuf; 2] {
    [folder.join(name), folder.join(format!("{name}.gz"))]
}

/// Reads an IDX file, gzipped or not.
///
/// # Errors
/// See [`IdxError`].
pub fn open(path: &Path, form: Form) -> Result<Idx, IdxError> {
    read(BufReader::with_capacity(1 << 16, file::open(path)?), form)
}

/// Reads an IDX file, gzipped or not, from a stream.
///
/// # Errors
/// See [`IdxError`].
pub fn read(mut stream: impl Read, form: Form) -> Result<Idx, IdxError> {
    let mut start = Vec::new();
    stream.by_ref().take(2).read_to_end(&mut start)?;
    let gzipped = start == [0x1f, 0x8b];
    let whole = io::Cursor::new(start).chain(stream);
    if gzipped { read_plain(MultiGzDecoder::new(whole), form) } else { read_plain(whole, form) }
}

fn read_plain(mut stream: impl Read, form: Form) -> Result<Idx, IdxError> {
    let what = form.what();
    let mut header = Vec::new();
    let length = 4 + 4 * form.dimensions() as u64;
    stream.by_ref().take(length).read_to_end(&mut header)?;
    let mut words = header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let wanted = 0x0800 | form.dimensions() as u32;
    match words.next() {
        Some(found) if found == wanted => {}
        Some(found) => return Err(IdxError::Magic { what, found, wanted }),
        None => return Err(IdxError::Truncated { what: "header", wanted: length, found: header.len() as u64 }),
    }
    if header.len() as u64 != length {
        return Err(IdxError::Truncated { what: "header", wanted: length, found: header.len() as u64 });
    }
    let dimensions: Vec<u32> = words.collect();
    if let [_, height, width] = dimensions[..]
        && (height as usize, width as usize) != (SIDE, SIDE)
    {
        return Err(IdxError::Side { height, width });
    }
    // Three u32 can't overflow a u128.
    let product: u128 = dimensions.iter().map(|d| u128::from(*d)).product();
    let wanted =
        u64::try_from(product).ok().filter(|n| *n <= MAX_BYTES).ok_or(IdxError::TooLarge { wanted: product })?;

    // Grows as bytes arrive, so that a false header takes no memory.
    let mut data = Vec::new();
    stream.take(wanted + 1).read_to_end(&mut data)?;
    match (data.len() as u64).cmp(&wanted) {
        std::cmp::Ordering::Less => return Err(IdxError::Truncated { what, wanted, found: data.len() as u64 }),
        std::cmp::Ordering::Greater => return Err(IdxError::Trailing { wanted }),
        std::cmp::Ordering::Equal => {}
    }
    let sha256 = Sha256::new().chain_update(&header).chain_update(&data).finalize().into();
    Ok(Idx { count: dimensions.first().map_or(0, |n| *n as usize), data, sha256 })
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn images(count: u32, pixels: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, 3];
        for d in [count, 28, 28] {
            file.extend(d.to_be_bytes());
        }
        file.extend(pixels);
        file
    }

    pub(crate) fn labels(labels: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, 1];
        file.extend((labels.len() as u32).to_be_bytes());
        file.extend(labels);
        file
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn refused(bytes: &[u8], form: Form) -> String {
        read(bytes, form).unwrap_err().to_string()
    }

    #[test]
    fn plain_and_gzipped_files_read_the_same() {
        let file = labels(&[3, 1, 4]);
        let plain = read(&file[..], Form::Labels).unwrap();
        assert_eq!((plain.count, &plain.data[..]), (3, &[3, 1, 4][..]));
        let zipped = read(&gzip(&file)[..], Form::Labels).unwrap();
        assert_eq!(zipped.data, plain.data);
        assert_eq!(zipped.sha256, plain.sha256);
        let expected: [u8; 32] = Sha256::digest(&file).into();
        assert_eq!(plain.sha256, expected);
    }

    #[test]
    fn another_kind_of_file_is_named_as_such() {
        insta::assert_snapshot!(refused(&labels(&[1; 20]), Form::Images),
            @"not an IDX file of images: it begins with 00000801, not 00000803");
        insta::assert_snapshot!(refused(b"<html>", Form::Labels),
            @"not an IDX file of labels: it begins with 3c68746d, not 00000801");
        insta::assert_snapshot!(refused(b"", Form::Labels),
            @"cut short: the header promises 8 bytes of header, the file has 0");
    }

    #[test]
    fn a_file_must_be_as_long_as_its_header_says() {
        let mut file = labels(&[1, 2, 3]);
        file.push(9);
        insta::assert_snapshot!(refused(&file, Form::Labels), @"the file has more than the 3 bytes that the header promises");
        insta::assert_snapshot!(refused(&gzip(&file), Form::Labels), @"the file has more than the 3 bytes that the header promises");
        file.truncate(9);
        insta::assert_snapshot!(refused(&file, Form::Labels), @"cut short: the header promises 3 bytes of labels, the file has 1");
        let zipped = gzip(&images(2, &[7; 2 * PIXELS]));
        assert!(matches!(
            read(&zipped[..zipped.len() - 12], Form::Images),
            Err(IdxError::Gzip(_) | IdxError::Truncated { .. })
        ));
    }

    #[test]
    fn false_header_or_gzip_bomb_takes_no_memory() {
        insta::assert_snapshot!(refused(&images(u32::MAX, &[]), Form::Images), @"the header promises 3367254359280 bytes; the limit is 1073741824");
        insta::assert_snapshot!(refused(&images(1_000_000, &[]), Form::Images), @"cut short: the header promises 784000000 bytes of images, the file has 0");
        // 64 MB of zeros behind a header that promises one label.
        let mut bomb = labels(&[1]);
        bomb.resize(64 << 20, 0);
        let idx = read(&gzip(&bomb)[..], Form::Labels);
        assert!(matches!(idx, Err(IdxError::Trailing { wanted: 1 })));
    }

    #[test]
    fn only_wrong_content_gets_a_hint_to_replace_the_file() {
        let hint_of = |error: IdxError| match error.in_file(Path::new("x.gz"), Some("replace it")) {
            StageError::BadInput { hint, .. } => hint,
            StageError::Io { what, .. } => {
                assert_eq!(what, "can't read x.gz");
                None
            }
            other => panic!("{other:?}"),
        };
        // Too many open files, out of memory, an error of the disk, and an EINVAL, which looks like a decoder's error.
        for number in [24, 12, 5, 22] {
            assert_eq!(hint_of(io::Error::from_raw_os_error(number).into()), None, "{number}");
        }
        assert_eq!(hint_of(io::Error::from(io::ErrorKind::OutOfMemory).into()), None);
        assert_eq!(hint_of(FileError::NotRegular("a FIFO").into()), None);
        let zipped = gzip(&labels(&[1; 1000]));
        let mut flipped = zipped.clone();
        flipped[15] ^= 0xff;
        for bytes in [&zipped[..zipped.len() - 4], &flipped, b"\x1f\x8b rest", b"", b"<html>"] {
            assert_eq!(hint_of(read(bytes, Form::Labels).unwrap_err()).as_deref(), Some("replace it"), "{bytes:?}");
        }
    }

    #[test]
    fn only_28_by_28_fits_the_decoder() {
        let mut file = images(1, &[0; PIXELS]);
        file[11] = 32;
        insta::assert_snapshot!(refused(&file, Form::Images), @"the images are 32×28 pixels; the decoder makes 28×28");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), valid in any::<bool>(), gz in any::<bool>()) {
            let mut file = if valid { vec![0, 0, 8, 1] } else { vec![] };
            file.extend(&bytes);
            let file = if gz { gzip(&file) } else { file };
            for form in [Form::Labels, Form::Images] {
                if let Ok(idx) = read(&file[..], form) {
                    prop_assert_eq!(idx.data.len(), idx.count * if form == Form::Images { PIXELS } else { 1 });
                }
            }
        }

        #[test]
        fn damaged_gzip_streams_are_refused_or_read_whole(cut in 0usize..60, flip in 0usize..60) {
            let mut file = gzip(&labels(&(0..200).map(|i| i as u8).collect::<Vec<_>>()));
            let at = flip % file.len();
            file[at] ^= 0x10;
            file.truncate(file.len() - cut.min(file.len()));
            if let Ok(idx) = read(&file[..], Form::Labels) {
                prop_assert_eq!(idx.data.len(), idx.count);
            }
        }
    }
}
