//! Whether a model knows a table by heart (Elephants Never Forget, arXiv 2404.06209).
//!
//! ```text
//! context    = header + the rows before, one per line
//! exact      = Σ log p(token of "row\n")
//! perturbed  = the same of the row with the value of one column from another row
//! completed  = greedy decoding behind the first fields writes the rest of the row
//! ```
//! A preference alone proves nothing: common values, and values copied from the rows before, are more
//! probable whether or not the table was seen. A table that cannot have been seen is the measure.

use std::path::Path;

use serde::Serialize;

use super::choice::files::DataFile;
use super::choice::run::{Prompt, Solver, greedy, likelihood};
use super::needle::mixed;
use geb::error::{Error, Result};

/// A CSV file with a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Line in the file (from 1) and fields of each row.
    pub rows: Vec<(usize, Vec<String>)>,
}

/// What is asked of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows before the one in question, at most.
    pub before: usize,
    /// Fields given to complete a row.
    pub given: usize,
    /// The column whose values are swapped; `None`: one chosen for each row.
    pub column: Option<usize>,
    /// Of that choice and of the other row.
    pub seed: u64,
    /// Rows in question, at most.
    pub limit: usize,
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Data`] with file and line for a row with more or fewer fields than
    /// the header, fewer than two rows or columns, or rows that are all the same.
    pub fn read(path: &Path) -> Result<Table> {
        let file = DataFile::read(path.to_owned())?;
        let mut rows = file.rows()?.into_iter();
        let columns = rows.next().map(|r| r.fields).unwrap_or_default();
        if columns.len() < 2 {
            let value = columns.len().to_string();
            return Err(file.bad(1, "number of columns", &value, "at least 2, in a header"));
        }
        let row = |row: super::choice::csv::Row| match row.fields.len() == columns.len() {
            true => Ok((row.line, row.fields)),
            false => {
                let value = format!("{} fields", row.fields.len());
                let allowed = format!("{}, as in the header", columns.len());
                Err(file.bad(row.line, "row", &value, &allowed))
            }
        };
        let rows = rows.map(row).collect::<Result<Vec<_>>>()?;
        if rows.len() < 2 {
            let value = rows.len().to_string();
            return Err(file.bad(1, "number of rows", &value, "at least 2"));
        }
        if rows.iter().all(|r| r.1 == rows[0].1) {
            return Err(file.bad(2, "rows", "all the same", "rows that differ"));
        }
        Ok(Table { columns, rows })
    }

    /// Column and other row whose value takes the place of that of row `row`; nothing where all rows have
    /// the same values in the column.
    pub fn swap(&self, row: usize, plan: &Plan) -> Option<(usize, usize)> {
        let dice = mixed(plan.seed ^ mixed(row as u64));
        let (rows, columns) = (self.rows.len(), self.columns.len());
        let first = (dice % columns as u64) as usize;
        let other = (mixed(dice) % rows as u64) as usize;
        let candidates = match plan.column {
            Some(column) => vec![column],
            None => (0..columns).map(|c| (first + c) % columns).collect(),
        };
        let differs = |c: usize, r: &usize| self.rows[*r].1[c] != self.rows[row].1[c];
        candidates.into_iter().find_map(|c| {
            let mut others = (0..rows).map(|r| (other + r) % rows);
            others.find(|r| differs(c, r)).map(|r| (c, r))
        })
    }

    fn context(&self, rows: std::ops::Range<usize>) -> String {
        let rows = self.rows[rows].iter().map(|r| &r.1);
        let lines = std::iter::once(&self.columns).chain(rows);
        lines.map(|fields| line(fields) + "\n").collect()
    }
}

/// Fields as a line of a CSV file.
pub fn line(fields: &[String]) -> String {
    let field = |text: &String| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.clone(),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",")
}

/// What a model said to one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Line of the file, from 1.
    pub line: usize,
    /// Rows before it in the prompt.
    pub before: usize,
    /// Log-likelihood of the row, nats.
    pub exact: f64,
    /// That of the perturbed row.
    pub perturbed: f64,
    /// Name of the column that differs.
    pub column: String,
    /// The value that took the place of the row's own.
    pub instead: String,
    /// What greedy decoding wrote behind the first fields.
    pub written: String,
    /// Whether that is the rest of the row.
    pub completed: bool,
}

/// Asks for the first rows of a table. `observe` is given each record, or `None` for a row that does not
/// fit the context or has no other value; its `false` ends with [`Error::Interrupted`].
///
/// # Errors
/// [`Error::Request`] for a number of given fields that leaves nothing; and those of
/// [`Session::forward`](geb::session::Session::forward).
pub fn run(
    solver: &mut Solver<'_>,
    table: &Table,
    plan: &Plan,
    observe: &mut dyn FnMut(Option<Record>) -> bool,
) -> Result<()> {
    if !(1..table.columns.len()).contains(&plan.given) {
        return Err(Error::Request {
            what: "number of given fields".into(),
            value: plan.given.to_string(),
            allowed: format!("1 to {}", table.columns.len() - 1),
        });
    }
    solver.session.reset();
    for row in 0..table.rows.len().min(plan.limit) {
        if !observe(ask(solver, table, plan, row)?) {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

fn ask(solver: &mut Solver<'_>, table: &Table, plan: &Plan, row: usize) -> Result<Option<Record>> {
    let Some((column, other)) = table.swap(row, plan) else {
        return Ok(None);
    };
    let (number, fields) = &table.rows[row];
    let mut changed = fields.clone();
    changed[column].clone_from(&table.rows[other].1[column]);
    let whole = line(fields) + "\n";
    let given = line(&fields[..plan.given]);
    for before in (0..=plan.before.min(row)).rev() {
        let context = table.context(row - before..row);
        let prompt = |context: &str, rest: &str| Prompt::new(solver.tokenizer, context, rest);
        let exact = prompt(&context, &whole)?;
        let perturbed = prompt(&context, &(line(&changed) + "\n"))?;
        let rest = prompt(&(context + &given), &whole[given.len()..])?;
        let ctx = solver.session.ctx();
        if [&exact, &perturbed, &rest]
            .iter()
            .any(|p| p.inputs().len() > ctx)
        {
            continue;
        }
        // As a text, because the first token may begin before the rest.
        let last = rest.ids[..rest.from].last().copied();
        let want = solver.tokenizer.continuation(last, rest.targets());
        let exact = likelihood(solver.session, &exact)?;
        let perturbed = likelihood(solver.session, &perturbed)?;
        let (written, ended) = greedy(solver.session, solver.tokenizer, &rest)?;
        return Ok(Some(Record {
            line: *number,
            before,
            exact,
            perturbed,
            column: table.columns[column].clone(),
            instead: changed[column].clone(),
            completed: is_rest(&want, &written, ended),
            written,
        }));
    }
    Ok(None)
}

/// Whether `written` is the rest of a row: up to the end of its line, or of the text.
fn is_rest(want: &str, written: &str, ended: bool) -> bool {
    written.starts_with(want) || ended && Some(written) == want.strip_suffix('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let rows = ["1,x,a", "2,x,b", "3,x,\"b,c\""];
        let fields = [["1", "x", "a"], ["2", "x", "b"], ["3", "x", "b,c"]];
        let fields = fields.map(|f| f.map(str::to_owned).to_vec());
        assert_eq!(fields.each_ref().map(|f| line(f)), rows);
        Table {
            columns: ["id", "same", "name"].map(str::to_owned).to_vec(),
            rows: (2..).zip(fields).collect(),
        }
    }

    #[test]
    fn another_value_takes_the_place() {
        let table = table();
        let mut plan = Plan {
            before: 2,
            given: 1,
            column: None,
            seed: 1,
            limit: 9,
        };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            plan.seed = seed;
            for row in 0..3 {
                let (column, other) = table.swap(row, &plan).expect("another value");
                assert_eq!(table.swap(row, &plan), Some((column, other)));
                assert_ne!(table.rows[row].1[column], table.rows[other].1[column]);
                seen.insert((row, column, other));
            }
        }
        // Every row, two columns that differ, two other rows.
        assert_eq!(seen.len(), 12);
        plan.column = Some(1);
        assert_eq!(table.swap(0, &plan), None);
        assert_eq!(table.context(1..2), "id,same,name\n2,x,b\n");
    }

    #[test]
    fn the_rest_ends_with_its_line() {
        assert!(is_rest(",b\n", ",b\n3", false) && is_rest(",b\n", ",b", true));
        assert!(!is_rest(",b\n", ",bc\n", false) && !is_rest(",b\n", ",b", false));
    }
}
