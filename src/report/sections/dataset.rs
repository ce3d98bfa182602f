//! The data sets among the inputs: the images and labels that others of the inputs were made from.

use super::item::Item;
use crate::artifact::Capability;
use crate::report::image::Stack;
use crate::stage::StageError;

/// Data sets with more bytes of images are not read.
const LARGEST: u64 = 256 << 20;
const SPLITS: [&str; 2] = ["train", "test"];

/// All data sets among the inputs.
#[derive(Default)]
pub(super) struct DataSets(Vec<Split>);

/// The images of a split and their classes.
pub(super) struct Split {
    pub(super) name: &'static str,
    pub(super) images: Stack,
    labels: Vec<usize>,
    classes: Vec<String>,
}

impl DataSets {
    /// Reads the data sets, if there are inputs that show images of them.
    pub(super) fn read(items: &[Item<'_>]) -> Result<Self, StageError> {
        let users = [Capability::RECONSTRUCTIONS, Capability::INTERPOLATION, Capability::EMBEDDING];
        let mut found = Self::default();
        if !items.iter().any(|item| users.iter().any(|what| item.shows(*what))) {
            return Ok(found);
        }
        for item in items.iter().filter(|item| item.provides(Capability::IMAGES)) {
            for name in SPLITS {
                found.0.extend(Split::read(item, name)?);
            }
        }
        Ok(found)
    }

    /// The split whose first images these are.
    pub(super) fn beginning_with(&self, images: &Stack) -> Option<&Split> {
        self.0.iter().find(|split| split.images.begins_with(images))
    }

    /// The split of this name with exactly these classes of its images.
    pub(super) fn with_labels(&self, name: &str, labels: &[usize]) -> Option<&Split> {
        self.0.iter().find(|split| split.name == name && split.labels == labels)
    }

    /// The train split. `None` if there are several data sets.
    pub(super) fn train(&self) -> Option<&Split> {
        let mut all = self.0.iter().filter(|split| split.name == SPLITS[0]);
        all.next().filter(|_| all.next().is_none())
    }
}

impl Split {
    /// `None` if it has no images, or too many.
    fn read(item: &Item<'_>, name: &'static str) -> Result<Option<Self>, StageError> {
        let [images, labels] = ["images", "labels"].map(|what| format!("{name}.{what}"));
        let entry = item.manifest().tensors.get(&images);
        if entry.is_none_or(|entry| entry.blob.size > LARGEST || entry.shape.len() != 3 || entry.shape[0] == 0) {
            return Ok(None);
        }
        let images = item.images(&images)?;
        let labels = if item.has(&labels) { item.indices(&labels)? } else { Vec::new() };
        Ok(Some(Self { name, images, labels, classes: item.classes() }))
    }

    /// The class of an image.
    pub(super) fn class(&self, index: usize) -> Option<&str> {
        self.classes.get(*self.labels.get(index)?).map(String::as_str)
    }
}
