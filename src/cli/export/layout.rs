//! The names and the contents of the files that a result is exported to. Nothing is read or written here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::artifact::{BlobEntry, ElementType, Manifest, TensorEntry, TensorFile};
use crate::file::stays_below;
use crate::stage::STATE_FOLDER;

/// A file of an export.
#[derive(Debug, PartialEq)]
pub(super) struct ExportFile<'a> {
    /// Its path below the point's folder.
    pub(super) name: String,
    /// The name that another file already has, if it was renamed.
    pub(super) instead_of: Option<String>,
    /// What goes into it.
    pub(super) content: Content<'a>,
}

/// The content of a file.
#[derive(Debug, PartialEq)]
pub(super) enum Content<'a> {
    /// Metrics or facts.
    Json(Value),
    /// A file of the result, unchanged.
    File(&'a BlobEntry),
    /// A file with tensors, which is part of the last state of a program.
    TensorFile(&'a TensorFile),
    /// Tensors with their names in the file, which are unique.
    Tensors(Vec<(&'a str, &'a TensorEntry)>),
    /// A stack of images.
    Picture(&'a TensorEntry),
}

/// The file for tensors without a dot in their names.
const UNGROUPED: &str = "tensors";

/// The files that a result is exported to, sorted by name. If two would have the same name, the second gets a number,
/// in this order: metrics.json and facts.json, the result's own files, tensors, pictures.
///
/// # Errors
/// The reason, if a name is not valid for a file.
pub(super) fn files(manifest: &Manifest) -> Result<Vec<ExportFile<'_>>, String> {
    let mut wanted = vec![
        ("metrics.json".to_owned(), Content::Json(json!(manifest.metrics))),
        ("facts.json".to_owned(), Content::Json(json!(manifest.facts))),
    ];
    wanted.extend(manifest.files.iter().map(|(name, blob)| (name.clone(), Content::File(blob))));
    let state = |name: &String| format!("{STATE_FOLDER}/{name}");
    wanted.extend(manifest.state.files.iter().map(|(name, blob)| (state(name), Content::File(blob))));
    wanted.extend(manifest.state.tensor_files.iter().map(|(name, file)| (state(name), Content::TensorFile(file))));
    wanted.extend(groups(manifest).into_iter().map(|(group, t)| (format!("{group}.safetensors"), Content::Tensors(t))));
    let pictures = manifest.tensors.iter().filter(|(_, entry)| is_picture(entry));
    wanted.extend(pictures.map(|(name, entry)| (format!("{name}.png"), Content::Picture(entry))));

    let mut taken: BTreeSet<String> = wanted.iter().map(|(name, _)| name.clone()).collect();
    let mut first = BTreeSet::new();
    let mut files = Vec::with_capacity(wanted.len());
    for (name, content) in wanted {
        let is_free = first.insert(name.clone());
        let (name, instead_of) = if is_free { (name, None) } else { (numbered(&name, &taken), Some(name)) };
        taken.insert(name.clone());
        files.push(ExportFile { name, instead_of, content });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    check_names(&taken)?;
    Ok(files)
}

/// Tensors by their file: `decoder.fc.weight` is `fc.weight` in the group `decoder`.
fn groups<'a>(manifest: &'a Manifest) -> BTreeMap<&'a str, Vec<(&'a str, &'a TensorEntry)>> {
    let place = |name: &'a str| name.split_once('.').unwrap_or((UNGROUPED, name));
    // `x` and `tensors.x` would both be `x` in the same file. Then all tensors of the file keep their full names.
    let clash = manifest.tensors.keys().any(|name| match name.split_once('.') {
        Some((group, short)) => group == UNGROUPED && !short.contains('.') && manifest.tensors.contains_key(short),
        None => false,
    });
    let mut groups: BTreeMap<&str, Vec<(&str, &TensorEntry)>> = BTreeMap::new();
    for (name, entry) in &manifest.tensors {
        let (group, short) = place(name);
        let short = if clash && group == UNGROUPED { name } else { short };
        groups.entry(group).or_default().push((short, entry));
    }
    groups
}

/// A larger stack is a data set.
const MOST_IMAGES: usize = 400;
/// The limits of `report::image`: the pixels of a side of an image, and of the whole picture.
const LONGEST_SIDE: usize = 1 << 14;
/// See [`LONGEST_SIDE`].
const MOST_PIXELS: usize = 1 << 28;
/// Each pixel becomes a square with sides of this length.
pub(super) const SCALE: usize = 2;

/// The number of columns for a number of images.
pub(super) fn columns(count: usize) -> usize {
    ((count as f64).sqrt().ceil() as usize).clamp(1, 10)
}

fn is_picture(entry: &TensorEntry) -> bool {
    let &[count, height, width] = &entry.shape[..] else { return false };
    let drawable = [height, width].iter().all(|side| (1..=LONGEST_SIDE).contains(side));
    if entry.element != ElementType::U8 || !(1..=MOST_IMAGES).contains(&count) || !drawable {
        return false;
    }
    let columns = columns(count);
    let side = |cells: usize, pixels: usize| (cells * (pixels + 1) - 1) * SCALE;
    side(columns, width).saturating_mul(side(count.div_ceil(columns), height)) <= MOST_PIXELS
}

/// The first of `plot-2.png`, `plot-3.png`, … that is not taken.
fn numbered(name: &str, taken: &BTreeSet<String>) -> String {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) => (stem, format!(".{extension}")),
        None => (name, String::new()),
    };
    let mut number = 2u64;
    loop {
        let name = format!("{stem}-{number}{extension}");
        if !taken.contains(&name) {
            return name;
        }
        number += 1;
    }
}

/// The most bytes that a file system allows in a name.
const LONGEST_NAME: usize = 255;

fn check_names(names: &BTreeSet<String>) -> Result<(), String> {
    for name in names {
        let path = Path::new(name);
        let as_written = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
        if !stays_below(name) || !as_written || name.contains('\0') {
            return Err(format!("{name:?} can't be the name of a file"));
        }
        if name.split('/').any(|part| part.len() > LONGEST_NAME) {
            let start: String = name.chars().take(40).collect();
            return Err(format!("`{start}…` is too long for the name of a file"));
        }
    }
    for name in names {
        let mut folders = Path::new(name).ancestors().skip(1).filter_map(Path::to_str);
        if let Some(both) = folders.find(|folder| names.contains(*folder)) {
            return Err(format!("`{both}` would be a file and a folder"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Tensor;
    use crate::report::image;

    fn manifest(tensors: &[(&str, ElementType, &[usize])], files: &[&str]) -> Manifest {
        let blob = BlobEntry::of(b"");
        let entry = |element, shape: &[usize]| TensorEntry { element, shape: shape.to_vec(), blob };
        Manifest {
            kind: "command".to_owned(),
            tensors: tensors.iter().map(|(n, element, shape)| ((*n).to_owned(), entry(*element, shape))).collect(),
            files: files.iter().map(|n| ((*n).to_owned(), blob)).collect(),
            ..Manifest::default()
        }
    }

    /// Each file with what is in it.
    fn laid_out(tensors: &[(&str, ElementType, &[usize])], files: &[&str]) -> Result<String, String> {
        let manifest = manifest(tensors, files);
        let lines = super::files(&manifest)?.into_iter().map(|file| {
            let content = match file.content {
                Content::Json(_) => "JSON".to_owned(),
                Content::File(_) => "file".to_owned(),
                Content::Tensors(tensors) => tensors.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" "),
                Content::TensorFile(file) => file.tensors.keys().cloned().collect::<Vec<_>>().join(" "),
                Content::Picture(_) => "picture".to_owned(),
            };
            format!("{}: {content}", file.name)
        });
        Ok(lines.filter(|l| !l.ends_with("JSON")).collect::<Vec<_>>().join("\n"))
    }

    const VECTOR: (ElementType, &[usize]) = (ElementType::F32, &[3]);
    const IMAGES: (ElementType, &[usize]) = (ElementType::U8, &[2, 4, 4]);

    fn vectors<'a>(names: &[&'a str]) -> Vec<(&'a str, ElementType, &'static [usize])> {
        names.iter().map(|n| (*n, VECTOR.0, VECTOR.1)).collect()
    }

    #[test]
    fn tensors_are_grouped_by_the_part_before_the_first_dot() {
        insta::assert_snapshot!(laid_out(&vectors(&["x", "d.fc.w", "d.fc.b", "tensors.y"]), &[]).unwrap(), @r"
        d.safetensors: fc.b fc.w
        tensors.safetensors: y x
        ");
    }

    #[test]
    fn tensors_with_the_same_short_name_keep_their_full_names() {
        insta::assert_snapshot!(laid_out(&vectors(&["x", "y", "tensors.x", "tensors.tensors.x"]), &[]).unwrap(),
            @"tensors.safetensors: tensors.tensors.x tensors.x x y");
    }

    #[test]
    fn second_file_of_the_same_name_gets_a_number() {
        let tensors = [("a", IMAGES.0, IMAGES.1), ("a-2", IMAGES.0, IMAGES.1)];
        insta::assert_snapshot!(laid_out(&tensors, &["a.png"]).unwrap(), @r"
        a-2.png: picture
        a-3.png: picture
        a.png: file
        tensors.safetensors: a a-2
        ");
        insta::assert_snapshot!(laid_out(&vectors(&["x"]), &["tensors.safetensors", "metrics.json"]).unwrap(), @r"
        metrics-2.json: file
        tensors-2.safetensors: x
        tensors.safetensors: file
        ");
    }

    #[test]
    fn stack_of_images_gets_a_picture_if_it_can_be_drawn() {
        for (shape, drawn) in [
            ([0, 4, 4], false),
            ([2, 0, 4], false),
            ([2, 4, 0], false),
            ([400, 4, 4], true),
            ([7, 5, 3], true),
            ([1, 1, 1 << 14], true),
            ([1, 1, (1 << 14) + 1], false),
            ([400, 1 << 14, 20], false),
        ] {
            let manifest = manifest(&[("a", ElementType::U8, &shape)], &[]);
            let tensor = Tensor::new(shape, &vec![0u8; shape.iter().product()]).unwrap();
            let grid = image::grid(&tensor, columns(shape[0]), SCALE);
            assert_eq!((is_picture(&manifest.tensors["a"]), grid.is_ok()), (drawn, drawn), "{shape:?}");
        }
        assert_eq!(laid_out(&[("a", ElementType::U8, &[401, 4, 4])], &[]).unwrap(), "tensors.safetensors: a");
    }

    #[test]
    fn names_that_are_not_plain_paths_are_refused() {
        for (name, message) in [
            ("../x.png", "\"../x.png\" can't be the name of a file"),
            ("/x", "\"/x\" can't be the name of a file"),
            ("a//b", "\"a//b\" can't be the name of a file"),
            ("a/./b", "\"a/./b\" can't be the name of a file"),
            ("", "\"\" can't be the name of a file"),
            ("x\0", "\"x\\0\" can't be the name of a file"),
            ("metrics.json/x", "`metrics.json` would be a file and a folder"),
        ] {
            assert_eq!(laid_out(&[], &[name]), Err(message.to_owned()));
        }
        assert!(laid_out(&[], &[&"é".repeat(128)]).unwrap_err().contains("too long"));
        assert_eq!(laid_out(&[], &[&"é".repeat(127)]).unwrap().chars().count(), 133);
    }
}
