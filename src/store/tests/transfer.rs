//! Exchange with a remote store, which is in memory here.

use std::io::{Cursor, Read};
use std::sync::{Mutex, MutexGuard};

use super::damage::flip;
use super::packs::pack_files;
use super::*;
use crate::artifact::BlobEntry;
use crate::store::remote::{Remote, RemoteError, result_name};

/// A remote store in memory.
#[derive(Default)]
struct MemoryRemote(Mutex<BTreeMap<String, Vec<u8>>>);

impl MemoryRemote {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap()
    }

    fn get(&self, name: String) -> Result<Vec<u8>, RemoteError> {
        self.objects().get(&name).cloned().ok_or(RemoteError::Missing(name))
    }
}

fn blob_name(blob: &BlobEntry) -> String {
    format!("blob/{}", blob.digest)
}

impl Remote for MemoryRemote {
    fn get_record(&self, name: &str) -> Result<Vec<u8>, RemoteError> {
        self.get(name.to_owned())
    }

    fn put_record(&self, name: &str, record: &[u8]) -> Result<bool, RemoteError> {
        let is_new = !self.objects().contains_key(name);
        self.objects().entry(name.to_owned()).or_insert_with(|| record.to_owned());
        Ok(is_new)
    }

    fn has_blob(&self, blob: &BlobEntry) -> Result<bool, RemoteError> {
        Ok(self.objects().contains_key(&blob_name(blob)))
    }

    fn get_blob(&self, blob: &BlobEntry) -> Result<Box<dyn Read + '_>, RemoteError> {
        Ok(Box::new(Cursor::new(self.get(blob_name(blob))?)))
    }

    fn put_blob(&self, blob: &BlobEntry, bytes: &mut dyn Read) -> Result<(), RemoteError> {
        let mut content = Vec::new();
        let read = bytes.read_to_end(&mut content);
        read.map_err(|e| RemoteError::Failed { what: format!("write {}", blob_name(blob)), source: e.into() })?;
        self.objects().insert(blob_name(blob), content);
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, RemoteError> {
        Ok(self.objects().keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
}

/// A store with a result of a small file, a small tensor and a tensor of several pieces.
fn with_result() -> (tempfile::TempDir, Store, ResultRecord, Artifact) {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut a = artifact(1, 1000);
    a.tensors.insert("large".to_owned(), Tensor::vector(&noise(2, (5 << 19) + 7)));
    let record = commit(&store, "x", &components("a", 1), &a);
    (dir, store, record, a)
}

#[test]
fn pushed_result_is_pulled_by_another_store_and_hits_there_with_the_same_digest() {
    let (_dir, first, record, a) = with_result();
    let remote = MemoryRemote::default();
    assert_eq!(first.push_result(&record.key, &remote).unwrap(), 4, "three blobs and the record");
    assert_eq!(remote.list("result/").unwrap(), [result_name(&record.key)]);
    let other = tempfile::tempdir().unwrap();
    let second = store(other.path());
    // The other store has a different history.
    commit(&second, "y", &components("b", 1), &artifact(5, 200_000));
    let pulled = second.pull_result(&record.key, &remote).unwrap().unwrap();
    assert_eq!(second.look(|look| look.hit(&record.key)).unwrap(), Some(record.digest));
    assert_eq!(read(&second, &pulled).unwrap(), a);
    assert_eq!(ResultRecord { lineage: record.lineage, ..pulled }, record);
    assert!(second.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
    // A second pull asks the remote for nothing.
    assert!(second.pull_result(&record.key, &MemoryRemote::default()).unwrap().is_some());
    assert_eq!((first.warnings(), second.warnings()), (vec![], vec![]));
}

#[test]
fn push_skips_objects_that_are_there_and_completes_a_push_that_broke_off() {
    let (_dir, store, record, _) = with_result();
    let remote = MemoryRemote::default();
    assert_eq!(store.push_result(&record.key, &remote).unwrap(), 4);
    assert_eq!(store.push_result(&record.key, &remote).unwrap(), 0);
    let complete = remote.objects().clone();
    remote.objects().remove(&result_name(&record.key));
    remote.objects().remove(&blob_name(&record.manifest.tensors["large"].blob));
    assert_eq!(store.push_result(&record.key, &remote).unwrap(), 2);
    assert_eq!(*remote.objects(), complete);
    assert!(matches!(store.push_result(&components("none", 1).key(), &remote), Err(StoreError::NotFound(_))));
}

#[test]
fn altered_or_missing_remote_object_is_a_miss_and_nothing_is_stored() {
    let (_dir, first, record, a) = with_result();
    let remote = MemoryRemote::default();
    first.push_result(&record.key, &remote).unwrap();
    let intact = remote.objects().clone();
    for name in intact.keys() {
        for how in ["flipped", "cut", "missing"] {
            *remote.objects() = intact.clone();
            match how {
                "flipped" => {
                    let mut objects = remote.objects();
                    let bytes = objects.get_mut(name).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
                "cut" => drop(remote.objects().get_mut(name).unwrap().pop()),
                _ => drop(remote.objects().remove(name)),
            }
            let dir = tempfile::tempdir().unwrap();
            let second = store(dir.path());
            assert_eq!(second.pull_result(&record.key, &remote).unwrap(), None, "{name} {how}");
            assert_eq!(second.result(&record.key).unwrap(), None, "{name} {how}");
            assert_eq!(pack_files(dir.path()), [""; 0].map(std::path::PathBuf::from), "{name} {how}");
            // A record that is not there is an ordinary miss.
            let is_reported = !(name.starts_with("result/") && how == "missing");
            assert_eq!(second.warnings().len(), usize::from(is_reported), "{name} {how}");
            *remote.objects() = intact.clone();
            let pulled = second.pull_result(&record.key, &remote).unwrap().unwrap();
            assert_eq!(read(&second, &pulled).unwrap(), a, "{name} {how}");
        }
    }
}

#[test]
fn pull_repairs_a_damaged_result() {
    let (dir, store, record, a) = with_result();
    let remote = MemoryRemote::default();
    store.push_result(&record.key, &remote).unwrap();
    flip(&pack_files(dir.path())[0], 2 << 20);
    assert!(matches!(read(&store, &record), Err(StoreError::Damaged { .. })));
    let pulled = store.pull_result(&record.key, &remote).unwrap().unwrap();
    assert_eq!((pulled.damaged, read(&store, &pulled).unwrap()), (false, a));
    assert!(store.doctor(false, &mut |_, _| ()).unwrap().is_healthy());
}

#[test]
fn damaged_blob_is_not_pushed() {
    let (dir, store, record, _) = with_result();
    let large = record.manifest.tensors["large"].blob;
    flip(&pack_files(dir.path())[0], 2 << 20);
    let remote = MemoryRemote::default();
    assert!(
        matches!(store.push_result(&record.key, &remote), Err(StoreError::Damaged { blob, .. }) if blob == large.digest)
    );
    assert!(!remote.has_blob(&large).unwrap() && remote.list("result/").unwrap().is_empty());
    assert!(store.result(&record.key).unwrap().unwrap().damaged);
}

#[test]
fn failing_remote_store_is_an_error_with_its_cause() {
    struct Unreachable;
    fn failed<T>() -> Result<T, RemoteError> {
        Err(RemoteError::Failed { what: "read result/x".to_owned(), source: "connection refused".into() })
    }
    impl Remote for Unreachable {
        fn get_record(&self, _: &str) -> Result<Vec<u8>, RemoteError> {
            failed()
        }
        fn put_record(&self, _: &str, _: &[u8]) -> Result<bool, RemoteError> {
            failed()
        }
        fn has_blob(&self, _: &BlobEntry) -> Result<bool, RemoteError> {
            failed()
        }
        fn get_blob(&self, _: &BlobEntry) -> Result<Box<dyn Read + '_>, RemoteError> {
            failed()
        }
        fn put_blob(&self, _: &BlobEntry, _: &mut dyn Read) -> Result<(), RemoteError> {
            failed()
        }
        fn list(&self, _: &str) -> Result<Vec<String>, RemoteError> {
            failed()
        }
    }
    let (_dir, store, record, _) = with_result();
    let error = store.push_result(&record.key, &Unreachable).unwrap_err();
    assert_eq!(error.to_string(), "can't read result/x");
    let error = store.pull_result(&components("none", 1).key(), &Unreachable).unwrap_err();
    let error = crate::error::Error::from(error);
    assert_eq!(error.category.exit_code(), 5);
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "connection refused");
}
