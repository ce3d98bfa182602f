//! Properties of the filter language, for `crate::fuzzing`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cell, Column, Condition, Filter, Names, OPERATORS, Operator};
use crate::error::Category;

/// A row of the table that is filtered.
type Row = (usize, BTreeMap<&'static str, Cell>);

/// Filters, one in each line. A filter that is printed and parsed again is equal and keeps the same rows. The operators
/// are consistent with each other.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let texts: Vec<String> = text.lines().map(str::to_owned).collect();
    let filter = match Filter::parse(&texts) {
        Ok(filter) => filter,
        Err(error) => return assert_eq!(error.category, Category::BadInput, "{error}"),
    };
    if filter.0.is_empty() {
        return;
    }
    let printed = print(&filter);
    let again = Filter::parse(std::slice::from_ref(&printed));
    let again = again.unwrap_or_else(|e| panic!("a printed filter is refused: {printed}: {e}"));
    assert_eq!(again, filter, "{printed}");
    assert_eq!(kept(&again), kept(&filter), "{printed}");
    for condition in &filter.0 {
        rows().iter().flat_map(|(_, row)| row.values()).for_each(|cell| is_consistent(condition, cell));
    }
}

fn print(filter: &Filter) -> String {
    let condition = |c: &Condition| {
        let sign = OPERATORS.iter().find(|(_, operator)| *operator == c.operator).map_or("", |(sign, _)| sign);
        format!("{} {sign} \"{}\"", c.name, c.value)
    };
    filter.0.iter().map(condition).collect::<Vec<_>>().join(" && ")
}

/// The rows that a filter keeps, or its error.
fn kept(filter: &Filter) -> Result<Vec<usize>, String> {
    let axes = ["lr", "kind", "mixed", "both"].map(str::to_owned).to_vec();
    let metrics = BTreeSet::from(["loss", "both"].map(str::to_owned));
    let mut rows = rows();
    let get = |(_, row): &Row, column: &Column| match column {
        Column::Stage => row.get("stage").cloned(),
        Column::Axis(name) | Column::Metric(name) => row.get(name.as_str()).cloned(),
    };
    match filter.retain(&mut rows, &Names { axes, metrics }, get) {
        Ok(()) => Ok(rows.into_iter().map(|(number, _)| number).collect()),
        Err(error) => {
            assert_eq!(error.category, Category::BadInput, "{error}");
            Err(error.message)
        }
    }
}

fn rows() -> Vec<Row> {
    let text = |text: &str| Cell::Text(text.to_owned());
    let number = Cell::Number;
    let rows = [
        [("stage", text("ad")), ("lr", number(0.1)), ("mixed", number(0.0)), ("both", number(1.0))],
        [("stage", text("vad")), ("kind", text("gaussian")), ("mixed", text("0")), ("loss", number(-0.0))],
        [("stage", text("1e-3")), ("lr", number(1e-3)), ("mixed", text("true")), ("loss", number(f64::MAX))],
        [("stage", text("fit")), ("lr", number(5e-324)), ("kind", text("é \"x\"")), ("loss", number(1e16))],
    ];
    rows.into_iter().map(BTreeMap::from).enumerate().collect()
}

/// For every value exactly one of `=` and `!=` holds, and for two numbers exactly one of `<`, `=` and `>`.
fn is_consistent(condition: &Condition, cell: &Cell) {
    let holds = |operator| Condition { operator, ..condition.clone() }.holds(cell);
    let value = condition.value.parse::<f64>();
    if matches!(cell, Cell::Number(_)) && value.as_ref().is_ok_and(|v| v.is_nan()) {
        return;
    }
    assert!(holds(Operator::Equal) != holds(Operator::Unequal), "{condition:?} of {cell:?}");
    let (less, equal, greater) = (holds(Operator::Less), holds(Operator::Equal), holds(Operator::Greater));
    if matches!(cell, Cell::Number(_)) && value.is_ok() {
        assert_eq!([less, equal, greater].iter().filter(|b| **b).count(), 1, "{condition:?} of {cell:?}");
        assert_eq!(holds(Operator::LessOrEqual), less || equal);
        assert_eq!(holds(Operator::GreaterOrEqual), greater || equal);
    } else {
        assert!(!less && !greater, "{condition:?} of {cell:?}: strings have no order");
    }
}
