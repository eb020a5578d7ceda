//! Comma-separated values (RFC 4180): quoted fields may hold commas, quotes (doubled) and line
//! breaks; lines end with LF or CRLF. A quote inside an unquoted field is an ordinary character.

/// One record and the line it starts on (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub line: usize,
    pub fields: Vec<String>,
}

/// Records of a text; empty lines are left out. The error is the line of a quote that nothing closes.
pub(super) fn parse(text: &str) -> Result<Vec<Row>, usize> {
    let mut rows = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let start = line;
        let mut fields = Vec::new();
        loop {
            let (value, after) = field(rest).ok_or(start)?;
            line += rest[..rest.len() - after.len()].matches('\n').count();
            fields.push(value);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = end_of_line(after);
                    line += 1;
                    break;
                }
            }
        }
        if fields != [""] {
            rows.push(Row {
                line: start,
                fields,
            });
        }
    }
    Ok(rows)
}

/// The first field and what follows it: a comma, an end of line, or nothing.
fn field(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    if let Some(quoted) = text.strip_prefix('"') {
        rest = quoted;
        loop {
            let end = rest.find('"')?;
            value.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(more) => {
                    value.push('"');
                    rest = more;
                }
                None => break,
            }
        }
    }
    // Behind the closing quote there should be nothing; what there is belongs to the field.
    let end = rest.find([',', '\n']).unwrap_or(rest.len());
    let (plain, after) = rest.split_at(end);
    let carriage = after.is_empty() || after.starts_with('\n');
    value.push_str(if carriage {
        plain.strip_suffix('\r').unwrap_or(plain)
    } else {
        plain
    });
    Some((value, after))
}

fn end_of_line(text: &str) -> &str {
    text.strip_prefix('\n').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(usize, Vec<String>)> {
        let rows = parse(text).expect("closed quotes");
        rows.into_iter().map(|r| (r.line, r.fields)).collect()
    }

    fn row(line: usize, fields: &[&str]) -> (usize, Vec<String>) {
        (line, fields.iter().map(|f| (*f).to_owned()).collect())
    }

    #[test]
    fn quotes_commas_and_line_breaks() {
        let text = "a,\"b, \"\"c\"\"\",d\r\n\r\n\"two\nlines\",,\"\"\nlast \"word\",é";
        let want = [
            row(1, &["a", "b, \"c\"", "d"]),
            row(3, &["two\nlines", "", ""]),
            row(5, &["last \"word\"", "é"]),
        ];
        assert_eq!(rows(text), want);
    }

    #[test]
    fn ends_of_text() {
        assert_eq!(rows(""), []);
        assert_eq!(rows("\n\n"), []);
        assert_eq!(rows("a,"), [row(1, &["a", ""])]);
        assert_eq!(rows("a\r"), [row(1, &["a"])]);
        assert_eq!(rows("a\n"), rows("a"));
    }

    #[test]
    fn an_open_quote_is_found() {
        assert_eq!(parse("a,b\nc,\"d\ne,f\n"), Err(2));
    }
}
