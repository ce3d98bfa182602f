//! Tables that fit the terminal.
//!
//! If a table is too wide, headers and then cells are broken into several lines, at spaces and after the separators of
//! names. If that is not enough, rows with different columns, such as the metrics of several stages, become several
//! tables. A table that still does not fit is printed as one block per row, as psql's `\x auto` does.

use unicode_width::UnicodeWidthStr as _;

use super::short::shorten;
use super::words::pad;
use crate::escape::escape;

/// The spaces between two columns.
const GAP: usize = 2;
/// The indentation of the further lines of a row.
const INDENT: usize = 2;

/// Aligned columns with a header. Long cells are shortened. Hidden characters are escaped before the widths are
/// measured. With a `width`, the table is at most that wide if its words allow it.
pub(in crate::cli) fn table(header: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let header: Vec<String> = header.iter().map(|text| (*text).to_owned()).collect();
    let cells = printable(std::iter::once(&header).chain(rows));
    fitted(&cells, 1, width).unwrap_or_else(|| parts(&cells, width))
}

/// Aligned columns without a header.
pub(in crate::cli) fn columns(rows: &[Vec<String>], width: Option<usize>) -> String {
    let cells = printable(rows);
    fitted(&cells, 0, width).unwrap_or_else(|| aligned(&cells, &natural(&cells)))
}

fn printable<'a>(rows: impl IntoIterator<Item = &'a Vec<String>>) -> Vec<Vec<String>> {
    let cell = |text: &String| escape(&shorten(text)).into_owned();
    rows.into_iter().map(|row| row.iter().map(cell).collect()).collect()
}

/// The largest value of each column.
fn largest(rows: &[Vec<String>], of: impl Fn(&str, usize) -> usize) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let column = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| of(cell, c)).max().unwrap_or(0);
    (0..count).map(column).collect()
}

/// The width of each column without broken cells.
fn natural(rows: &[Vec<String>]) -> Vec<usize> {
    largest(rows, |cell, _| cell.width())
}

/// The width of each column if all cells are broken.
fn least(rows: &[Vec<String>], at: Breaks) -> Vec<usize> {
    largest(rows, |cell, column| {
        let pieces = pieces(cell, at);
        let first = pieces.first().map_or(0, |piece| piece.trim_end().width());
        let rest = pieces.iter().skip(1).map(|piece| piece.trim_end().width() + indent(column)).max();
        first.max(rest.unwrap_or(0))
    })
}

/// A table of at most `width` columns, with the first `headers` rows as header. `None` if there is none.
fn fitted(rows: &[Vec<String>], headers: usize, width: Option<usize>) -> Option<String> {
    let mut widths = natural(rows);
    let (header, body) = rows.split_at(headers);
    // Headers are broken first, and cells only if that is not enough.
    let least_header = least(header, Breaks::InNames);
    let floors = [natural(body), least(body, Breaks::BetweenWords), least(body, Breaks::InNames)];
    for floor in floors {
        let of = |widths: &[usize], column: usize| widths.get(column).copied().unwrap_or(0);
        while width.is_some_and(|width| total(&widths) > width) {
            let floor = |c: usize| of(&floor, c).max(of(&least_header, c));
            let shrinkable = (0..widths.len()).filter(|c| widths[*c] > floor(*c));
            let Some(widest) = shrinkable.max_by_key(|c| widths[*c]) else { break };
            widths[widest] -= 1;
        }
    }
    let fits = width.is_none_or(|width| total(&widths) <= width);
    fits.then(|| aligned(rows, &widths))
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

fn aligned(rows: &[Vec<String>], widths: &[usize]) -> String {
    rows.iter().flat_map(|row| row_lines(row, widths)).collect::<Vec<_>>().join("\n")
}

/// The lines of a row.
fn row_lines(row: &[String], widths: &[usize]) -> Vec<String> {
    let cells: Vec<Vec<String>> =
        row.iter().zip(widths).enumerate().map(|(column, (cell, width))| broken(cell, *width, column)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    let line = |n: usize| {
        let cell = |(cell, width): (&Vec<String>, &usize)| pad(cell.get(n).map_or("", String::as_str), *width);
        let line: Vec<String> = cells.iter().zip(widths).map(cell).collect();
        line.join(&" ".repeat(GAP)).trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

/// The indentation of the second line of a cell. It makes the beginning of a row visible.
fn indent(column: usize) -> usize {
    if column == 0 { INDENT } else { 0 }
}

/// A cell in lines of at most `width` columns, if its pieces are no longer.
fn broken(cell: &str, width: usize, column: usize) -> Vec<String> {
    if cell.width() <= width {
        return vec![cell.to_owned()];
    }
    let fits = |piece: &&str| piece.trim_end().width() + indent(column) <= width;
    let coarse = pieces(cell, Breaks::BetweenWords);
    let pieces = if coarse.iter().all(fits) { coarse } else { pieces(cell, Breaks::InNames) };
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.width() + piece.trim_end().width() <= width => line.push_str(piece),
            Some(_) => lines.push(format!("{}{piece}", " ".repeat(indent(column)))),
            None => lines.push(piece.to_owned()),
        }
    }
    // The space behind the last piece of a line may not fit.
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}

/// Where a cell may be broken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaks {
    /// Between words, and between the coordinates of a point: `ad@`, `lr=0.001,`.
    BetweenWords,
    /// Also between the parts of names: `val_`, `loss`. A number, a date or the id of a run is never broken.
    InNames,
}

/// The parts of a cell that are not broken.
pub(super) fn pieces(cell: &str, at: Breaks) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut characters = cell.char_indices().peekable();
    let mut before = ' ';
    while let Some((position, c)) = characters.next() {
        let Some(&(next, after)) = characters.peek() else { break };
        let breaks = match c {
            ' ' => after != ' ' && before != '±' && !cell[start..position].trim().is_empty(),
            ',' | '@' | '/' => after != ' ',
            '_' | '-' | '.' => at == Breaks::InNames && before.is_alphabetic() && after.is_alphabetic(),
            _ => false,
        };
        if breaks {
            pieces.push(&cell[start..next]);
            start = next;
        }
        before = c;
    }
    pieces.push(&cell[start..]);
    pieces
}

/// One table for the rows of each stage, or whatever the first column holds, with only the columns that these rows use.
fn parts(rows: &[Vec<String>], width: Option<usize>) -> String {
    let Some((header, body)) = rows.split_first() else { return String::new() };
    let used = |rows: &[Vec<String>]| -> Vec<usize> {
        let is_used = |c: &usize| rows.iter().any(|row| row.get(*c).is_some_and(|cell| !cell.is_empty()));
        (0..header.len()).filter(is_used).collect()
    };
    let mut groups: Vec<(Vec<usize>, Vec<Vec<String>>)> = Vec::new();
    for group in body.chunk_by(|a, b| a.first() == b.first()) {
        let columns = used(group);
        match groups.last_mut().filter(|(others, _)| *others == columns) {
            Some((_, rows)) => rows.extend_from_slice(group),
            None => groups.push((columns, group.to_vec())),
        }
    }
    if groups.len() == body.len() {
        return blocks(rows);
    }
    let part = |(columns, rows): &(Vec<usize>, Vec<Vec<String>>)| {
        let cells = |row: &Vec<String>| columns.iter().filter_map(|c| row.get(*c).cloned()).collect();
        let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).map(cells).collect();
        fitted(&rows, 1, width).unwrap_or_else(|| blocks(&rows))
    };
    groups.iter().map(part).collect::<Vec<_>>().join("\n\n")
}

/// One block per row: its first cell, and below it the other cells that are not empty, with their headers.
fn blocks(rows: &[Vec<String>]) -> String {
    let Some((header, rows)) = rows.split_first() else { return String::new() };
    let width = header.iter().skip(1).map(|text| text.width()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for row in rows {
        lines.extend(row.first().cloned());
        let cells = header.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty());
        lines.extend(cells.map(|(name, cell)| format!("  {}  {cell}", pad(name, width))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn columns_line_up_with_escaped_and_wide_cells() {
        let cells = rows(&[&["a\u{202e}", "1"], &["b", "2"], &["日本", "3"], &["e\u{301}", ""]]);
        insta::assert_snapshot!(table(&["name", "n"], &cells, None), @r"
        name       n
        a\u{202e}  1
        b          2
        日本       3
        é
        ");
        assert_eq!(columns(&rows(&[&["long", "1"], &["x", "2"]]), Some(80)), "long  1\nx     2");
    }

    const METRICS: [&str; 7] = [
        "stage",
        "learning_rate",
        "weight_decay",
        "loss",
        "validation_loss",
        "validation_accuracy",
        "metric.validation_steps",
    ];

    fn metrics() -> Vec<Vec<String>> {
        rows(&[
            &["data", "", "", "", "", "", "40"],
            &["train-the-network", "0.001", "0.0001", "0.0123", "0.0456", "0.9300", "1200"],
            &["train-the-network", "0.01", "1e-05", "0.0234", "0.0567", "0.9200", "1200"],
        ])
    }

    #[test]
    fn wide_table_breaks_its_headers_before_its_cells() {
        insta::assert_snapshot!(table(&METRICS, &metrics(), Some(100)), @r"
        stage              learning_rate  weight_decay  loss    validation_     validation_    metric.
                                                                loss            accuracy       validation_
                                                                                               steps
        data                                                                                   40
        train-the-network  0.001          0.0001        0.0123  0.0456          0.9300         1200
        train-the-network  0.01           1e-05         0.0234  0.0567          0.9200         1200
        ");
        insta::assert_snapshot!(table(&METRICS, &metrics(), Some(80)), @r"
        stage          learning_  weight_  loss    validation_  validation_  metric.
                       rate       decay            loss         accuracy     validation_
                                                                             steps
        data                                                                 40
        train-the-     0.001      0.0001   0.0123  0.0456       0.9300       1200
          network
        train-the-     0.01       1e-05    0.0234  0.0567       0.9200       1200
          network
        ");
    }

    #[test]
    fn names_break_between_their_parts() {
        let header = ["stage", "kind", "outcome", "took", "output", "error"];
        let name = "train-the-network@learning_rate=0.003,weight_decay=0.0001";
        let error = "`/bin/sh` exited with code 3; the end of its output:";
        let cells = rows(&[
            &["data", "load-data", "executed", "13ms", "d9cc60502eb5", ""],
            &[name, "command", "failed", "", "", error],
        ]);
        insta::assert_snapshot!(table(&header, &cells, Some(80)), @r"
        stage                   kind       outcome   took  output        error
        data                    load-data  executed  13ms  d9cc60502eb5
        train-the-network@      command    failed                        `/bin/sh`
          learning_rate=0.003,                                           exited with
          weight_decay=0.0001                                            code 3; the end
                                                                         of its output:
        ");
    }

    #[test]
    fn columns_without_a_header_break_between_words() {
        let cells = rows(&[&["  argv", "one two three four", "→", "one two 3 four"], &["  lr", "0.001", "→", "0.01"]]);
        insta::assert_snapshot!(columns(&cells, Some(30)), @r"
        argv  one two    →  one two
              three         3 four
              four
        lr    0.001      →  0.01
        ");
        assert_eq!(columns(&cells, Some(10)), columns(&cells, None), "its words are longer");
    }

    #[test]
    fn stages_with_different_metrics_become_several_tables() {
        let header = ["stage", "distribution", "classes", "evaluated_loss", "kl", "loss_first", "psnr", "train"];
        let cells = rows(&[
            &["data", "", "10", "", "", "", "", "480"],
            &["ad", "", "", "0.2284", "", "0.6410", "19.5245", ""],
            &["vad", "gaussian", "", "0.2979", "0.6304", "0.6719", "16.4236", ""],
            &["vad", "uniform", "", "0.2250", "1.1368", "0.6636", "18.9816", ""],
            &["fit-vad", "gaussian", "", "0.3979", "0.6304", "0.6719", "16.4236", ""],
            &["fit-vad", "uniform", "", "0.3250", "1.1368", "0.6636", "18.9816", ""],
        ]);
        insta::assert_snapshot!(table(&header, &cells, Some(60)), @r"
        stage  classes  train
        data   10       480

        stage  evaluated_loss  loss_first  psnr
        ad     0.2284          0.6410      19.5245

        stage    distribution  evaluated_  kl      loss_     psnr
                               loss                first
        vad      gaussian      0.2979      0.6304  0.6719    16.4236
        vad      uniform       0.2250      1.1368  0.6636    18.9816
        fit-vad  gaussian      0.3979      0.6304  0.6719    16.4236
        fit-vad  uniform       0.3250      1.1368  0.6636    18.9816
        ");
    }

    #[test]
    fn table_that_cannot_fit_is_one_block_per_row() {
        insta::assert_snapshot!(table(&METRICS, &metrics(), Some(40)), @r"
        stage  metric.validation_steps
        data   40

        train-the-network
          learning_rate            0.001
          weight_decay             0.0001
          loss                     0.0123
          validation_loss          0.0456
          validation_accuracy      0.9300
          metric.validation_steps  1200
        train-the-network
          learning_rate            0.01
          weight_decay             1e-05
          loss                     0.0234
          validation_loss          0.0567
          validation_accuracy      0.9200
          metric.validation_steps  1200
        ");
    }

    #[test]
    fn numbers_dates_and_ids_are_never_broken() {
        for whole in ["0.001", "1e-05", "20261122-100405123-1f3a0", "2026-11-22", "v1_2"] {
            assert_eq!(pieces(whole, Breaks::InNames), [whole]);
        }
        let point = "ad@lr=0.001,latent_dim=8";
        assert_eq!(pieces(point, Breaks::BetweenWords), ["ad@", "lr=0.001,", "latent_dim=8"]);
        assert_eq!(pieces(point, Breaks::InNames), ["ad@", "lr=0.001,", "latent_", "dim=8"]);
        assert_eq!(pieces("never run; after x", Breaks::BetweenWords), ["never ", "run; ", "after ", "x"]);
        assert_eq!(pieces("  argv", Breaks::InNames), ["  argv"]);
        assert_eq!(pieces("0.25 ± 0.01", Breaks::InNames), ["0.25 ", "± 0.01"]);
        assert_eq!(broken("one two three", 7, 1), ["one two", "three"], "without the space behind `two`");
    }
}
