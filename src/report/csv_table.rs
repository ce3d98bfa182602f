//! Tables that programs wrote: CSV, also with `;`, and TSV.

use csv::{ByteRecord, ReaderBuilder, Trim};

use crate::artifact::NOT_LOGGED;

/// A larger table is not shown.
pub(super) const LARGEST: u64 = 16 << 20;
/// The rows that are kept as text.
pub(super) const MOST_ROWS: usize = 50;
/// A curve has at least this many points.
const FEWEST_POINTS: usize = 3;

/// A table of a program.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CsvTable {
    /// The names of its columns.
    pub(super) header: Vec<String>,
    /// Its first rows.
    pub(super) rows: Vec<Vec<String>>,
    /// The number of all rows.
    pub(super) count: usize,
    /// All values of each column; `None` for a column that does not consist of numbers. An empty cell has
    /// [`NOT_LOGGED`].
    numbers: Vec<Option<Vec<f64>>>,
}

/// Whether a file of this name is a table.
pub(super) fn is_table(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".csv", ".tsv"].iter().any(|ending| name.ends_with(ending))
}

/// The number in a cell. An empty cell has [`NOT_LOGGED`].
pub(super) fn number(cell: &str) -> Option<f64> {
    if cell.is_empty() { Some(f64::from_bits(NOT_LOGGED)) } else { cell.parse().ok() }
}

impl CsvTable {
    /// Reads a table. If its first row has only numbers, it has no header.
    ///
    /// # Errors
    /// If it is not a table. The text says why.
    pub(super) fn read(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let first_line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter(name, first_line))
            .has_headers(false)
            .flexible(true)
            .trim(Trim::All)
            .from_reader(bytes);
        let mut table = Self::default();
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(|error| error.to_string())? {
            let line = record.position().map_or(0, csv::Position::line);
            let cells: Result<Vec<&str>, _> = record.iter().map(std::str::from_utf8).collect();
            let cells = cells.map_err(|_| format!("line {line} is not valid UTF-8"))?;
            if table.header.is_empty() {
                table.begin(&cells);
                continue;
            }
            if cells.len() != table.header.len() {
                let (here, header) = (cells.len(), table.header.len());
                return Err(format!("rows differ in length: line {line} has {here} of {header} cells"));
            }
            table.push(&cells);
        }
        if table.header.is_empty() {
            return Err("the file is empty".to_owned());
        }
        Ok(table)
    }

    fn begin(&mut self, cells: &[&str]) {
        self.numbers = cells.iter().map(|_| Some(Vec::new())).collect();
        if cells.iter().all(|cell| cell.parse::<f64>().is_ok()) {
            self.header = (1..=cells.len()).map(|column| format!("column {column}")).collect();
            self.push(cells);
            return;
        }
        // numpy.savetxt writes `# ` in front of the header.
        let plain = |(at, cell): (usize, &&str)| if at == 0 { cell.trim_start_matches("# ") } else { cell }.to_owned();
        self.header = cells.iter().enumerate().map(plain).collect();
    }

    fn push(&mut self, cells: &[&str]) {
        self.count += 1;
        if self.rows.len() < MOST_ROWS {
            self.rows.push(cells.iter().map(|cell| (*cell).to_owned()).collect());
        }
        for (column, cell) in self.numbers.iter_mut().zip(cells) {
            match (column.as_mut(), number(cell)) {
                (Some(values), Some(value)) => values.push(value),
                _ => *column = None,
            }
        }
    }

    /// Its values by column, if all columns are numbers and the first one rises or falls: then they are curves.
    pub(super) fn curves(&self) -> Option<Vec<&[f64]>> {
        let columns: Vec<&[f64]> = self.numbers.iter().map(Option::as_deref).collect::<Option<_>>()?;
        let (first, others) = columns.split_first()?;
        let is_axis = first.iter().all(|value| value.is_finite())
            && (first.is_sorted_by(|a, b| a < b) || first.is_sorted_by(|a, b| a > b));
        (is_axis && first.len() >= FEWEST_POINTS && !others.is_empty()).then_some(columns)
    }
}

/// The delimiter: a tab in a TSV; in a CSV, that of `,`, `;` and a tab that is most frequent in its first line.
fn delimiter(name: &str, first_line: &[u8]) -> u8 {
    if name.to_ascii_lowercase().ends_with(".tsv") {
        return b'\t';
    }
    let count = |wanted: &u8| first_line.iter().filter(|byte| *byte == wanted).count();
    // The last of several maxima wins.
    [b'\t', b';', b','].into_iter().max_by_key(count).unwrap_or(b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> CsvTable {
        CsvTable::read("a.csv", text.as_bytes()).unwrap()
    }

    #[test]
    fn quoted_cells_may_contain_delimiters_and_newlines() {
        let table = read("\u{feff}name,note\n\"a,b\",\"two\nlines\"\nc,\"say \"\"x\"\"\"\n");
        assert_eq!(table.header, ["name", "note"]);
        assert_eq!(table.rows, [["a,b", "two\nlines"], ["c", "say \"x\""]]);
        assert_eq!(table.curves(), None);
    }

    #[test]
    fn numbers_over_a_rising_or_falling_first_column_are_curves() {
        let table = read("epoch,loss,accuracy\r\n1,0.9,\r\n2,0.5,0.7\r\n3,nan,\r\n");
        let curves = table.curves().unwrap();
        assert_eq!(curves[0], [1.0, 2.0, 3.0]);
        assert!(curves[1][2].is_nan() && curves[1][2].to_bits() != NOT_LOGGED);
        assert_eq!((curves[2][0].to_bits(), curves[2][1]), (NOT_LOGGED, 0.7));
        assert!(read("x;y\n3;1\n2;2\n1;5\n").curves().is_some());
        for none in
            ["x,y\n1,1\n1,2\n3,3\n", "x,y\n1,1\n2,2\n", "x\n1\n2\n3\n", "x,y\n1,a\n2,b\n3,c\n", "x,y\n,1\n2,2\n3,3\n"]
        {
            assert_eq!(read(none).curves(), None, "{none}");
        }
    }

    #[test]
    fn header_may_be_missing_or_a_comment() {
        let table = read("1,2\n3,4\n");
        assert_eq!((table.header.join(" "), table.count), ("column 1 column 2".to_owned(), 2));
        assert_eq!(read("# step,loss\n1,2\n").header, ["step", "loss"]);
        let tabs = CsvTable::read("a.TSV", b"a,b\tc\n1\t2\n").unwrap();
        assert_eq!(tabs.header, ["a,b", "c"]);
        assert_eq!(CsvTable::read("a.csv", b"a\tb\n1\t2\n").unwrap().header, ["a", "b"]);
    }

    #[test]
    fn only_first_rows_are_kept() {
        let text: String = (0..1000).map(|row| format!("{row},x\n")).collect();
        let table = read(&format!("a,b\n{text}"));
        assert_eq!((table.rows.len(), table.count), (MOST_ROWS, 1000));
    }

    #[test]
    fn broken_table_has_a_reason() {
        let reasons = [&b""[..], b"a,b\n1,2\n1,2,3\n", b"a,b\n1,\xff\n", b"\n\n"]
            .map(|bytes| CsvTable::read("a.csv", bytes).unwrap_err());
        insta::assert_snapshot!(reasons.join("\n"), @r"
        the file is empty
        rows differ in length: line 3 has 3 of 2 cells
        line 2 is not valid UTF-8
        the file is empty
        ");
    }
}
