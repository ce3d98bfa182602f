//! Tables that programs wrote: CSV, also with `;`, and TSV.

use csv::{ByteRecord, ReaderBuilder, Trim};
use csv_core::ReadFieldResult;

use crate::artifact::NOT_LOGGED;

/// A larger table is not shown.
pub(super) const LARGEST: u64 = 16 << 20;
/// A table with more columns is not shown. Each cell takes more memory than its bytes in the file.
const WIDEST: usize = 4096;
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
    /// Reads a table. If its first row has only numbers, it has no header, unless they count up.
    ///
    /// # Errors
    /// If it is not a table. The text says why.
    pub(super) fn read(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let first_line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let delimiter = delimiter(name, first_line);
        if is_too_wide(bytes, delimiter) {
            return Err(format!("tables of more than {WIDEST} columns are not shown"));
        }
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
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
        // A cell has a comma only if it is quoted or the delimiter is another one.
        if cells.iter().all(|cell| is_decimal(cell)) && !counts_up(cells) {
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

/// Whether these are whole numbers of which each is one more than that before it. They name columns: `0,1,2` in a table
/// of pandas, or years.
fn counts_up(cells: &[&str]) -> bool {
    let numbers: Option<Vec<i64>> = cells.iter().map(|cell| cell.parse().ok()).collect();
    numbers.is_some_and(|numbers| {
        numbers.len() > 1 && numbers.is_sorted_by(|before, next| before.checked_add(1) == Some(*next))
    })
}

/// Whether this is a number, perhaps with a comma for the point.
fn is_decimal(cell: &str) -> bool {
    cell.replacen(',', ".", 1).parse::<f64>().is_ok()
}

/// Whether a row has too many columns. Keeps no cell.
fn is_too_wide(mut bytes: &[u8], delimiter: u8) -> bool {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    let (mut cells, mut cell) = (0, [0; 4096]);
    loop {
        let (result, read, _) = reader.read_field(bytes, &mut cell);
        bytes = &bytes[read..];
        match result {
            ReadFieldResult::Field { record_end } => {
                cells += 1;
                if cells > WIDEST {
                    return true;
                }
                if record_end {
                    cells = 0;
                }
            }
            ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
            ReadFieldResult::End => return false,
        }
    }
}

/// The delimiter: a tab in a TSV; in a CSV, `;` if the first line has numbers with commas between `;`, else that of
/// `,`, `;` and a tab that is most frequent in the first line.
fn delimiter(name: &str, first_line: &[u8]) -> u8 {
    if name.to_ascii_lowercase().ends_with(".tsv") {
        return b'\t';
    }
    let count = |wanted: &u8| first_line.iter().filter(|byte| *byte == wanted).count();
    let is_number = |piece: &[u8]| {
        std::str::from_utf8(piece).is_ok_and(|piece| is_decimal(piece.trim_start_matches('\u{feff}').trim()))
    };
    if count(&b';') > 0 && first_line.split(|byte| *byte == b';').all(is_number) {
        return b';';
    }
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
        let table = read("1,3\n3,4\n");
        assert_eq!((table.header.join(" "), table.count), ("column 1 column 2".to_owned(), 2));
        assert_eq!(read("# step,loss\n1,2\n").header, ["step", "loss"]);
        let tabs = CsvTable::read("a.TSV", b"a,b\tc\n1\t2\n").unwrap();
        assert_eq!(tabs.header, ["a,b", "c"]);
        assert_eq!(CsvTable::read("a.csv", b"a\tb\n1\t2\n").unwrap().header, ["a", "b"]);
    }

    #[test]
    fn whole_numbers_that_count_up_are_a_header() {
        for text in ["0,1,2\n5,6,7\n", "2019,2020\n1,2\n", "-1;0\n3;3\n"] {
            let table = read(text);
            assert_eq!((table.header[0].as_str(), table.count), (&text[..text.find([',', ';']).unwrap()], 1));
        }
        for text in ["0,2,1\n", "0,1.0,2\n", "5\n", "9223372036854775807,-9223372036854775808\n"] {
            let table = read(text);
            assert_eq!((table.header[0].as_str(), table.count), ("column 1", 1), "{text}");
        }
    }

    #[test]
    fn numbers_with_commas_are_split_at_semicolons() {
        for (text, rows) in [
            ("1,5;2,5\n3,5;4\n", [["1,5", "2,5"], ["3,5", "4"]]),
            (" 1 ; 0,25\r\n2;-1,5e-3\r\n", [["1", "0,25"], ["2", "-1,5e-3"]]),
        ] {
            let table = read(text);
            assert_eq!(
                (table.header.join(" "), &*table.rows),
                ("column 1 column 2".to_owned(), &rows.map(|row| row.map(str::to_owned).to_vec())[..])
            );
        }
        assert_eq!(read("\u{feff}0,5;1,5\n").rows, [["0,5", "1,5"]]);
        // Not numbers.
        assert_eq!(read("a,b,c;d\n").header, ["a", "b", "c;d"]);
        assert_eq!(read("1,2,3;4\n").header, ["1", "2", "3;4"]);
    }

    #[test]
    fn table_with_too_many_columns_has_a_reason() {
        let row = |cells: usize| "x,".repeat(cells - 1) + "y\n";
        assert!(CsvTable::read("a.csv", row(WIDEST).repeat(2).as_bytes()).is_ok());
        for text in [row(WIDEST + 1), format!("a,b\n{}", row(WIDEST + 1)), ",".repeat(LARGEST as usize)] {
            let reason = CsvTable::read("a.csv", text.as_bytes()).unwrap_err();
            assert_eq!(reason, "tables of more than 4096 columns are not shown");
        }
        let quoted = format!("\"{}\",b\n1,2\n", row(WIDEST + 1).trim());
        assert_eq!(read(&quoted).header.len(), 2);
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
