//! The outputs of programs: pictures, tables, and curves of tables whose columns are numbers.
//!
//! The points of a stage are shown together: their pictures side by side, their tables as one, their curves in the same
//! charts. What can't be shown has a reason, which `other` lists; it never fails the report.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::{self, groups};
use super::item::Item;
use crate::id::PointName;
use crate::report::chart::{Caption, Series, lines_over};
use crate::report::colours::Colours;
use crate::report::csv_table::{self, CsvTable, is_table};
use crate::report::html::{Cell, Html, Table, html, name, number, shortened};
use crate::report::picture::{self, is_picture};
use crate::stage::{Cancel, StageError};

/// The most pictures of a file name or a folder, for all points of a stage together.
const MOST_PICTURES: usize = 60;
/// The most tables of a stage. Those of all points under one name count once.
const MOST_TABLES: usize = 20;
/// The most rows of one table in the page, for all points together.
const ROWS_PER_TABLE: usize = 200;
/// The most columns of a table, and the most charts.
const MOST_COLUMNS: usize = 24;
/// The most characters of a cell.
const LONGEST_CELL: usize = 120;
/// The most characters of the address of the picture on the first screen, which is in the page twice.
const LARGEST_COVER: usize = 400_000;
/// The most bytes of pictures and tables of a report.
const MOST_BYTES: u64 = 64 << 20;

/// The section, and what became of each file that it could show.
#[derive(Default)]
pub(super) struct Outputs {
    pub(super) html: Html,
    /// The pictures and tables, by the name of the input and their own.
    files: BTreeMap<(String, String), FileStatus>,
    /// A picture for the first screen, unless all are large.
    pub(super) cover: Option<Html>,
    /// How many bytes were read.
    bytes: u64,
}

/// What became of a picture or a table.
pub(super) enum FileStatus {
    /// The section shows or counts it.
    Shown,
    /// It is not shown, for this reason.
    Hidden(String),
}

/// The points of a stage.
struct Points<'a> {
    stage: &'a str,
    items: Vec<&'a Item<'a>>,
}

/// A picture or a table of a point.
struct Shown<'a, T> {
    item: &'a Item<'a>,
    file: &'a str,
    content: T,
}

impl Outputs {
    /// Reads the outputs of all inputs.
    ///
    /// # Errors
    /// If the bytes of an input are missing or damaged in the cache, or if cancelled.
    pub(super) fn read(
        items: &[Item<'_>],
        over: &[String],
        colours: &Colours,
        cancel: &Cancel,
    ) -> Result<Self, StageError> {
        let mut stages: Vec<Points<'_>> = Vec::new();
        for item in items {
            let stage = PointName::parse(&item.name).stage;
            match stages.iter_mut().find(|s| s.stage == stage && s.items[0].kind() == item.kind()) {
                Some(points) => points.items.push(item),
                None => stages.push(Points { stage, items: vec![item] }),
            }
        }
        let mut outputs = Self::default();
        for points in &stages {
            cancel.check()?;
            let pictures = outputs.pictures(points)?;
            let tables = outputs.tables(points, over, colours)?;
            if !(pictures.is_empty() && tables.is_empty()) {
                let kind = points.items[0].kind();
                outputs.html.push(html!("<h3>{} <small>{}</small></h3>\n{}{}", points.stage, kind, pictures, tables));
            }
        }
        Ok(outputs)
    }

    /// What became of a file of an input. `None` if it is neither a picture nor a table.
    pub(super) fn file_status(&self, item: &Item<'_>, file: &str) -> Option<&FileStatus> {
        self.files.get(&(item.name.clone(), file.to_owned()))
    }

    fn note(&mut self, item: &Item<'_>, file: &str, status: FileStatus) {
        self.files.insert((item.name.clone(), file.to_owned()), status);
    }

    /// Reads a file, and what is in it. `None`, with a reason noted, if it can't be shown.
    fn load<T>(
        &mut self,
        (item, file): (&Item<'_>, &str),
        largest: u64,
        read: impl Fn(&str, &[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, StageError> {
        let size = item.manifest().files.get(file).map_or(0, |blob| blob.size);
        let content = if size > largest {
            Err(format!("files of more than {} MB are not shown", largest >> 20))
        } else if self.bytes + size > MOST_BYTES {
            Err(format!("a report shows files of {} MB in all", MOST_BYTES >> 20))
        } else {
            self.bytes += size;
            read(file, &item.input.file(file)?)
        };
        let (content, status) = match content {
            Ok(content) => (Some(content), FileStatus::Shown),
            Err(reason) => (None, FileStatus::Hidden(reason)),
        };
        self.note(item, file, status);
        Ok(content)
    }

    fn pictures(&mut self, points: &Points<'_>) -> Result<Html, StageError> {
        let is_sweep = points.items.len() > 1;
        let mut sets: BTreeMap<&str, Vec<(&Item<'_>, &str)>> = BTreeMap::new();
        for (item, file) in points.files(is_picture) {
            let set = match file.split_once('/') {
                Some((folder, _)) => folder,
                None if is_sweep => file,
                None => "",
            };
            sets.entry(set).or_default().push((item, file));
        }
        let mut out = Html::default();
        for (set, files) in sets {
            let (shown, left) = self.read_pictures(&files)?;
            let Some(first) = shown.first() else { continue };
            if self.cover.is_none() && first.content.len() <= LARGEST_COVER {
                self.cover = Some(cover(first));
            }
            let folder = if set.is_empty() || set == files[0].1 { "" } else { "/" };
            let title = if set.is_empty() { Html::default() } else { title(&format!("{set}{folder}"), "") };
            let more = match left {
                0 => Html::default(),
                1 => Html::constant("<p class=\"under\">1 more picture is not shown.</p>\n"),
                left => html!("<p class=\"under\">{} more pictures are not shown.</p>\n", left),
            };
            let figures: Html = shown.iter().map(|picture| figure(picture, set, is_sweep)).collect();
            out.push(html!("{}<div class=\"pictures\">\n{}</div>\n{}", title, figures, more));
        }
        Ok(out)
    }

    /// The pictures that are shown, an equal share for each point, and how many others there are.
    fn read_pictures<'a>(
        &mut self,
        files: &[(&'a Item<'a>, &'a str)],
    ) -> Result<(Vec<Shown<'a, String>>, usize), StageError> {
        let points: BTreeSet<&str> = files.iter().map(|(item, _)| item.name.as_str()).collect();
        let share = (MOST_PICTURES / points.len().max(1)).max(1);
        let (mut shown, mut left) = (Vec::new(), 0);
        let mut of_point: BTreeMap<&str, usize> = BTreeMap::new();
        for (item, file) in files {
            let count = of_point.entry(&item.name).or_default();
            if *count >= share || shown.len() >= MOST_PICTURES {
                left += 1;
                self.note(item, file, FileStatus::Shown);
                continue;
            }
            if let Some(content) = self.load((item, file), picture::LARGEST, picture::address)? {
                *count += 1;
                shown.push(Shown { item, file, content });
            }
        }
        Ok((shown, left))
    }

    fn tables(&mut self, points: &Points<'_>, over: &[String], colours: &Colours) -> Result<Html, StageError> {
        let names: BTreeSet<&str> = points.files(is_table).map(|(_, file)| file).collect();
        let mut out = Html::default();
        for (at, name) in names.into_iter().enumerate() {
            let mut by_header: BTreeMap<Vec<String>, Vec<Shown<'_, CsvTable>>> = BTreeMap::new();
            for (item, file) in points.files(|file| file == name) {
                if at >= MOST_TABLES {
                    let reason = format!("{MOST_TABLES} tables of a stage are shown");
                    self.note(item, file, FileStatus::Hidden(reason));
                } else if let Some(content) = self.load((item, file), csv_table::LARGEST, CsvTable::read)? {
                    let header = content.header.clone();
                    by_header.entry(header).or_default().push(Shown { item, file, content });
                }
            }
            let is_sweep = points.items.len() > 1;
            out.push(
                by_header.values().map(|tables| charts_and_rows(name, tables, is_sweep, (over, colours))).collect(),
            );
        }
        Ok(out)
    }
}

impl<'a> Points<'a> {
    /// The files for which this holds, by point and name.
    fn files(&self, holds: impl Fn(&str) -> bool) -> impl Iterator<Item = (&'a Item<'a>, &'a str)> {
        let files = self.items.iter().flat_map(|item| item.manifest().files.keys().map(move |file| (*item, &**file)));
        files.filter(move |(_, file)| holds(file))
    }
}

/// The heading of files with this name.
fn title(file: &str, detail: &str) -> Html {
    html!("<p class=\"file\"><b>{}</b> <small>{}</small></p>\n", file, detail)
}

fn cover(Shown { item, file, content }: &Shown<'_, String>) -> Html {
    html!(
        "<figure class=\"chart cover\"><figcaption><b>{}</b> <small>of {}</small></figcaption><img alt=\"{} of {}\" \
         src=\"{}\"></figure>\n",
        *file,
        name(&item.name),
        *file,
        item.name,
        content
    )
}

fn figure(Shown { item, file, content }: &Shown<'_, String>, set: &str, is_sweep: bool) -> Html {
    let below = file.strip_prefix(set).and_then(|file| file.strip_prefix('/')).unwrap_or(file);
    let caption = match is_sweep {
        true if *file == set => name(&item.name),
        true => html!("{} <small>{}</small>", below, name(&item.name)),
        false => html!("{}", below),
    };
    let alt = format!("{file} of {}", item.name);
    html!(
        "<figure class=\"picture\"><img alt=\"{}\" src=\"{}\"><figcaption>{}</figcaption></figure>\n",
        alt,
        content,
        caption
    )
}

/// Tables with the same header: their curves, if all have some, and their rows.
fn charts_and_rows(
    file: &str,
    tables: &[Shown<'_, CsvTable>],
    is_sweep: bool,
    (over, colours): (&[String], &Colours),
) -> Html {
    let header = &tables[0].content.header;
    let count: usize = tables.iter().map(|table| table.content.count).sum();
    let in_all = format!("{} {}", number(count as f64), if count == 1 { "row" } else { "rows" });
    let rows = rows(tables, count, is_sweep);
    if tables.iter().any(|table| table.content.curves().is_none()) {
        return html!("{}{}", title(file, &in_all), rows);
    }
    let others = header.iter().enumerate().skip(1).take(MOST_COLUMNS);
    let chart = |(column, name): (usize, &String)| {
        let series = series(tables, column, over);
        let names: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
        lines_over(&Caption::of(name), &header[0], &series, &colours.paint(&names))
    };
    html!(
        "{}{}<div class=\"multiples\">\n{}</div>\n<details class=\"values\"><summary>{}</summary>\n{}</details>\n",
        title(file, ""),
        groups::note(over),
        others.map(chart).collect::<Html>(),
        in_all,
        rows
    )
}

/// A line for each point. Points that differ only in axes of `over` are one line if they have the same places.
fn series(tables: &[Shown<'_, CsvTable>], column: usize, over: &[String]) -> Vec<Series> {
    let items: Vec<&Item<'_>> = tables.iter().map(|table| table.item).collect();
    let columns = |item: &Item<'_>| {
        tables.iter().find(|table| table.item.name == item.name).and_then(|table| table.content.curves())
    };
    let mut series = Vec::new();
    for group in groups(&items, over) {
        let curves: Vec<(&str, Vec<&[f64]>)> =
            group.members.iter().filter_map(|item| Some((&*item.name, columns(item)?))).collect();
        let places = curves[0].1[0];
        if curves.iter().all(|(_, columns)| columns[0] == places) {
            let values = curves.iter().map(|(_, columns)| columns[column].to_vec()).collect();
            series.push(Series::logged(group.name, places, values));
            continue;
        }
        series.extend(
            curves
                .into_iter()
                .map(|(name, columns)| Series::logged(name.to_owned(), columns[0], vec![columns[column].to_vec()])),
        );
    }
    series
}

/// The first rows of each table, of `count` in all; those of several points in one table.
fn rows(tables: &[Shown<'_, CsvTable>], count: usize, is_sweep: bool) -> Html {
    let header = &tables[0].content.header;
    let share = (ROWS_PER_TABLE / tables.len()).max(1);
    let shown: Vec<(&Item<'_>, &Vec<String>)> = tables
        .iter()
        .flat_map(|table| table.content.rows.iter().take(share).map(|row| (table.item, row)))
        .take(ROWS_PER_TABLE)
        .collect();
    let columns = header.len().min(MOST_COLUMNS);
    let is_number = |column: usize| shown.iter().all(|(_, row)| csv_table::number(&row[column]).is_some());
    let numeric: Vec<bool> = (0..columns).map(is_number).collect();
    let mut table = Table::default();
    if is_sweep {
        table.column("point", false);
    }
    for (name, figures) in header.iter().zip(&numeric) {
        table.column(name, *figures);
    }
    for (item, row) in &shown {
        let mut cells: Vec<Cell> = is_sweep.then(|| Cell::name(&item.name)).into_iter().collect();
        cells.extend(row.iter().zip(&numeric).map(|(text, figures)| cell(text, *figures)));
        table.row(cells);
    }
    let hidden = [(count - shown.len(), "rows"), (header.len() - columns, "columns")];
    let hidden = hidden.iter().filter(|(count, _)| *count > 0);
    let hidden: Vec<String> = hidden.map(|(count, what)| format!("{} more {what}", number(*count as f64))).collect();
    let more = match hidden.is_empty() {
        true => Html::default(),
        false => html!("<p class=\"under\">… {}</p>\n", hidden.join(", ")),
    };
    html!("{}{}", table.render_as(&format!("{} of {}", tables[0].file, tables[0].item.name)), more)
}

fn cell(text: &str, is_number: bool) -> Cell {
    match text.parse::<f64>() {
        Ok(value) if is_number && value.is_finite() => {
            Cell::html(html!("<span title=\"{}\">{}</span>", text, number(value)), value.to_string())
        }
        _ => Cell::text(&shortened(text, LONGEST_CELL)),
    }
}
