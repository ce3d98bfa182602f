use proptest::prelude::*;
use safetensors::tensor::TensorView;

use super::*;
use crate::artifact::{Tensor, to_safetensors};

/// A safetensors file with this dtype, metadata and shape, all bytes zero.
fn file_with(element: ElementType, shape: &[usize], metadata: &[(&str, &str)]) -> Vec<u8> {
    let bytes = vec![0; byte_count(element, shape).unwrap()];
    let view = TensorView::new(element, shape.to_vec(), &bytes).unwrap();
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    safetensors::serialize([("x", view)], Some(metadata)).unwrap()
}

#[test]
fn folder_is_scanned_with_its_subfolders_and_the_headers_of_its_tensors() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::write(dir.path().join("a/b/notes.txt"), "four").unwrap();
    fs::write(dir.path().join("a/x.safetensors"), file_with(ElementType::BF16, &[2, 3], &[("format", "pt")])).unwrap();
    let found = FolderOnDisk::scan(dir.path()).unwrap();
    assert_eq!(
        found.files.iter().map(|(name, file)| (name.as_str(), file.size)).collect::<Vec<_>>(),
        [("a/b/notes.txt", 4)]
    );
    let file = &found.tensor_files["a/x.safetensors"];
    assert_eq!(file.metadata, BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
    assert_eq!((file.tensors["x"].element, &*file.tensors["x"].shape), (ElementType::BF16, &[2, 3][..]));
}

#[test]
fn every_dtype_scalars_and_empty_tensors_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    for element in [
        "BOOL", "F4", "F6_E2M3", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "C64", "I64",
        "U64",
    ] {
        let element: ElementType = serde_json::from_str(&format!("{element:?}")).unwrap();
        for shape in [&[][..], &[0, 3], &[4]] {
            if byte_count(element, shape).is_none() {
                continue;
            }
            fs::write(&path, file_with(element, shape, &[])).unwrap();
            let file =
                TensorFileOnDisk::read("x", &path).unwrap_or_else(|error| panic!("{element:?} {shape:?}: {error}"));
            assert_eq!(file.tensors["x"].shape, shape);
        }
    }
}

#[test]
fn bytes_after_the_last_tensor_are_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut bytes = file_with(ElementType::U8, &[3], &[]);
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    let error = TensorFileOnDisk::read("x", &path).unwrap_err().to_string();
    assert_eq!(error, "`x` is not a safetensors file: 1 bytes follow its last tensor");
}

proptest! {
    #[test]
    fn header_is_that_of_the_crate(
        tensors in prop::collection::btree_map("[a-z]{1,3}", (any::<bool>(), 0_usize..4), 0..6),
        metadata in prop::collection::btree_map("[a-z]{1,3}", "[ -~]{0,5}", 0..4),
    ) {
        let tensors: BTreeMap<String, Tensor> = tensors
            .into_iter()
            .map(|(name, (wide, len))| {
                let tensor = if wide { Tensor::vector(&vec![1f64; len]) } else { Tensor::vector(&vec![2u8; len]) };
                (name, tensor)
            })
            .collect();
        let entry = |t: &Tensor| {
            let blob = BlobEntry::of(&t.to_blob().unwrap());
            TensorEntry { element: t.element(), shape: t.shape().to_vec(), blob }
        };
        let entries = tensors.iter().map(|(name, tensor)| (name.clone(), entry(tensor))).collect();
        let file = TensorFile { metadata: BTreeMap::new(), tensors: entries };
        let (header, order) = file.header().unwrap();
        let data: Vec<u8> = order.iter().flat_map(|name| tensors[*name].bytes().to_vec()).collect();
        prop_assert_eq!([header, data.clone()].concat(), to_safetensors(&tensors).unwrap());
        // With metadata it is read as it was written.
        let entries = tensors.iter().map(|(name, tensor)| (name.clone(), entry(tensor))).collect();
        let (header, _) = TensorFile { metadata: metadata.clone(), tensors: entries }.header().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        fs::write(&path, [header, data].concat()).unwrap();
        let read = TensorFileOnDisk::read("x", &path).unwrap();
        prop_assert_eq!(read.metadata, metadata);
        prop_assert!(read.tensors.keys().eq(tensors.keys()));
    }
}
