//! A folder of files, such as the state of a training program: as it is stored, and as it is on the disk before.
//!
//! A safetensors file is stored tensor by tensor, so that equal tensors are stored once. Its metadata count, the order
//! of its tensors does not. Any other file is one blob. Folders without files are not stored.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use super::blob::{BlobEntry, TensorEntry};
use super::fault;
use super::tensor::{ElementType, byte_count};
use crate::file;
use crate::key::{Digest, Hash};

/// The length of the field in front of a header.
const LENGTH: u64 = 8;

/// A stored folder. Names are paths below it, with `/` between their parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Folder {
    /// Files that are one blob.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, BlobEntry>,
    /// Files with tensors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensor_files: BTreeMap<String, TensorFile>,
}

/// A safetensors file, stored tensor by tensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorFile {
    /// Its metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Its tensors.
    pub tensors: BTreeMap<String, TensorEntry>,
}

impl Folder {
    /// Whether it has no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.tensor_files.is_empty()
    }

    /// The blobs of its files.
    pub fn blobs(&self) -> impl Iterator<Item = BlobEntry> {
        let tensors = self.tensor_files.values().flat_map(|file| file.tensors.values());
        self.files.values().copied().chain(tensors.map(|tensor| tensor.blob))
    }

    /// The digest of everything that counts.
    pub fn digest(&self) -> Digest {
        let mut hash = Hash::new("folder of files");
        self.hash(&mut hash);
        hash.finish()
    }

    /// Adds everything that counts to a digest.
    pub(super) fn hash(&self, hash: &mut Hash) {
        hash.count(self.files.len());
        for (name, blob) in &self.files {
            hash.text(name).digest(&blob.digest);
        }
        hash.count(self.tensor_files.len());
        for (name, TensorFile { metadata, tensors }) in &self.tensor_files {
            hash.text(name).count(metadata.len());
            for (name, value) in metadata {
                hash.text(name).text(value);
            }
            // The blob of a tensor contains its type and its shape.
            hash.count(tensors.len());
            for (name, tensor) in tensors {
                hash.text(name).digest(&tensor.blob.digest);
            }
        }
    }
}

impl TensorFile {
    /// The bytes before the tensors' elements, and the names of the tensors in the order of their elements. Both are as
    /// the safetensors crate writes them: large types first, so that all elements are aligned.
    ///
    /// # Errors
    /// If the file would be larger than any file can be.
    pub fn header(&self) -> io::Result<(Vec<u8>, Vec<&str>)> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidData, "the tensors are too large for a file");
        let mut order: Vec<(&String, &TensorEntry)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, tensor)| Reverse(tensor.element));
        let (mut infos, mut end) = (Vec::with_capacity(order.len()), 0usize);
        for (name, TensorEntry { element, shape, .. }) in &order {
            let (start, size) = (end, byte_count(*element, shape).ok_or_else(too_large)?);
            end = start.checked_add(size).ok_or_else(too_large)?;
            let info = TensorInfo { dtype: *element, shape: shape.clone(), data_offsets: (start, end) };
            infos.push(((*name).clone(), info));
        }
        let header = Metadata::new(None, infos).map_err(io::Error::other)?;
        let mut json = serde_json::to_string(&header)?;
        if !self.metadata.is_empty() {
            // The crate writes the metadata in a random order.
            let comma = if self.tensors.is_empty() { "" } else { "," };
            let metadata = serde_json::to_string(&self.metadata)?;
            json.replace_range(..1, &format!("{{\"__metadata__\":{metadata}{comma}"));
        }
        let mut json = json.into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let bytes = [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat();
        Ok((bytes, order.into_iter().map(|(name, _)| name.as_str()).collect()))
    }
}

/// A file on the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct FileOnDisk {
    /// Its path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
}

/// A tensor in a safetensors file on the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorOnDisk {
    /// Element type.
    pub element: ElementType,
    /// Shape.
    pub shape: Vec<usize>,
    /// The file.
    pub path: PathBuf,
    /// Where its elements begin in the file.
    pub offset: u64,
}

/// A safetensors file on the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorFileOnDisk {
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors.
    pub tensors: BTreeMap<String, TensorOnDisk>,
}

/// A folder on the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolderOnDisk {
    /// Files that become one blob.
    pub files: BTreeMap<String, FileOnDisk>,
    /// Safetensors files.
    pub tensor_files: BTreeMap<String, TensorFileOnDisk>,
}

/// Why a file can't be stored.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The fault of a file, such as "is a symbolic link".
    #[error("`{name}` {fault}")]
    Fault {
        /// Its path below the folder.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// The system returned an error.
    #[error("can't read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl FolderOnDisk {
    /// The bytes of all files and tensors.
    pub fn bytes(&self) -> u64 {
        let tensors = self.tensor_files.values().flat_map(|file| file.tensors.values());
        let sizes =
            tensors.map(|tensor| byte_count(tensor.element, &tensor.shape).map_or(u64::MAX, |size| size as u64));
        self.files.values().map(|file| file.size).chain(sizes).fold(0, u64::saturating_add)
    }

    /// Finds all files below a folder, and reads the headers of the safetensors files.
    ///
    /// # Errors
    /// If something below the folder is neither a regular file nor a folder, has a name that is not valid UTF-8, or is
    /// a safetensors file that is damaged.
    pub fn scan(root: &Path) -> Result<Self, FolderError> {
        let kind = fs::symlink_metadata(root).map_err(|source| FolderError::Io { path: root.to_owned(), source })?;
        if !kind.is_dir() {
            let (name, fault) = (root.display().to_string(), "is not a folder any more".to_owned());
            return Err(FolderError::Fault { name, fault });
        }
        let (mut found, mut open) = (Self::default(), vec![String::new()]);
        while let Some(below) = open.pop() {
            let folder = root.join(&below);
            let failed = |source| FolderError::Io { path: folder.clone(), source };
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().into_string().map_err(|name| FolderError::Fault {
                    name: format!("{below}{}", name.display()),
                    fault: "has a name that is not valid UTF-8".to_owned(),
                })?;
                let name = format!("{below}{name}");
                let kind = entry.file_type().map_err(failed)?;
                if kind.is_dir() {
                    open.push(format!("{name}/"));
                } else if !kind.is_file() {
                    let fault = format!("is {}, not a regular file", file::kind(kind));
                    return Err(FolderError::Fault { name, fault });
                } else {
                    found.add(name, entry.path())?;
                }
            }
        }
        Ok(found)
    }

    fn add(&mut self, name: String, path: PathBuf) -> Result<(), FolderError> {
        if is_tensor_file(&name) {
            let file = TensorFileOnDisk::read(&name, &path)?;
            self.tensor_files.insert(name, file);
        } else {
            let size = fs::symlink_metadata(&path).map(|file| file.len());
            let size = size.map_err(|source| FolderError::Io { path: path.clone(), source })?;
            self.files.insert(name, FileOnDisk { path, size });
        }
        Ok(())
    }

    /// Whether it has no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.tensor_files.is_empty()
    }
}

/// Whether a file with this name is stored tensor by tensor.
pub fn is_tensor_file(name: &str) -> bool {
    name.ends_with(".safetensors")
}

impl TensorFileOnDisk {
    /// Reads the header of a safetensors file. `name` is for messages.
    ///
    /// # Errors
    /// If the file can't be read or is damaged.
    pub fn read(name: &str, path: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Io { path: path.to_owned(), source };
        let fault = |fault: String| FolderError::Fault {
            name: name.to_owned(),
            fault: format!("is not a safetensors file: {fault}"),
        };
        let mut file = file::open(path).map_err(|error| failed(error.into()))?;
        let size = file.metadata().map_err(failed)?.len();
        let (start, header) = header(&mut file, size).map_err(failed)?.map_err(fault)?;
        let read = serde_json::from_slice::<Metadata>(&header).ok().filter(|m| m.data_len() as u64 == size - start);
        let Some(read) = read else {
            return Err(fault(fault::explain_header(&header, usize::try_from(size - start).unwrap_or(usize::MAX))));
        };
        let tensor = |(name, info): (String, &TensorInfo)| {
            let offset = start + info.data_offsets.0 as u64;
            (name, TensorOnDisk { element: info.dtype, shape: info.shape.clone(), path: path.to_owned(), offset })
        };
        let metadata = read.metadata().iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Self { metadata, tensors: read.tensors().into_iter().map(tensor).collect() })
    }
}

/// The offset of the first element in a safetensors file of `size` bytes, and its header; or what is wrong with it.
fn header(file: &mut File, size: u64) -> io::Result<Result<(u64, Vec<u8>), String>> {
    let mut start = Vec::new();
    file.by_ref().take(LENGTH).read_to_end(&mut start)?;
    let length = <[u8; LENGTH as usize]>::try_from(&*start).map(u64::from_le_bytes);
    match length {
        Ok(length) if length <= fault::LARGEST_HEADER && length <= size.saturating_sub(LENGTH) => {
            let mut header = Vec::new();
            file.by_ref().take(length).read_to_end(&mut header)?;
            Ok(Ok((LENGTH + length, header)))
        }
        _ => Ok(Err(fault::explain_start(&start, size))),
    }
}

#[cfg(test)]
mod tests;
