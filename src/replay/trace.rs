//! A recorded trace of arrivals: CSV with a header line, and the columns `TIMESTAMP`, `ContextTokens`
//! and `GeneratedTokens` (the Azure Public Dataset's names) in any order.
//!
//! A line that cannot be read spoils only itself: it is counted, and the first one is named.

use super::provider::Arrival;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The arrivals, in order of time, from second 0.
    pub arrivals: Vec<Arrival>,
    /// Lines that could not be read.
    pub broken: usize,
    /// The first of them: its number, and what is wrong with it.
    pub first_broken: Option<(usize, String)>,
}

/// The columns that are needed.
const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// Reads a trace.
///
/// # Errors
/// If the header line lacks a column, or no line can be read.
pub fn read(text: &str) -> Result<Trace, String> {
    let mut lines =
        text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_start_matches('\u{feff}').trim()));
    let (_, header) = lines.next().ok_or("the trace is empty")?;
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let mut columns = [0; COLUMNS.len()];
    for (column, wanted) in columns.iter_mut().zip(COLUMNS) {
        let at = names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
        *column =
            at.ok_or_else(|| format!("line 1: no column `{wanted}`; needed are {}", COLUMNS.join(", ")))?;
    }
    let (mut trace, mut rows) = (Trace::default(), Vec::new());
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        match row(line, columns) {
            Ok(row) => rows.push(row),
            Err(problem) => {
                trace.broken += 1;
                trace.first_broken.get_or_insert((number, problem));
            }
        }
    }
    rows.sort_by_key(|(at, ..)| *at);
    let start = rows.first().ok_or("no line of the trace can be read")?.0;
    trace.arrivals = rows
        .into_iter()
        .map(|(at, input, output)| Arrival { at: (at - start) as f64 / 1e6, input, output, unseen: false })
        .collect();
    Ok(trace)
}

/// Microseconds, input and output of one line.
fn row(line: &str, [time, input, output]: [usize; 3]) -> Result<(i64, u64, u64), String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let field = |at: usize| fields.get(at).copied().ok_or_else(|| format!("only {} columns", fields.len()));
    let tokens = |at: usize| {
        let text = field(at)?;
        text.parse::<u64>().map_err(|_| format!("`{text}` is no number of tokens"))
    };
    Ok((moment(field(time)?)?, tokens(input)?, tokens(output)?))
}

/// `2023-11-16 18:17:03.9799600`, RFC 3339, or Unix seconds; in microseconds.
fn moment(text: &str) -> Result<i64, String> {
    if let Ok(secs) = text.parse::<f64>() {
        return Ok((secs * 1e6) as i64);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.as_microsecond());
    }
    let civil: jiff::civil::DateTime = text.parse().map_err(|_| format!("`{text}` is no time"))?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| format!("`{text}` is no time"))?;
    Ok(zoned.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_in_any_order_and_a_broken_line_spoils_only_itself() {
        let text = "GeneratedTokens,TIMESTAMP,ContextTokens\n8,2023-11-16 18:17:05.5,30\n10,2023-11-16 18:17:03.9799600,4808\nx,2023-11-16 18:17:04,1\n1,never,2\n";
        let trace = read(text).unwrap();
        let seen: Vec<(f64, u64, u64)> = trace.arrivals.iter().map(|a| (a.at, a.input, a.output)).collect();
        assert_eq!(seen, [(0.0, 4808, 10), (1.52004, 30, 8)]);
        assert_eq!(trace.broken, 2);
        assert_eq!(trace.first_broken, Some((4, "`x` is no number of tokens".to_owned())));
    }

    #[test]
    fn a_file_that_is_no_trace_says_what_is_missing() {
        assert!(read("a,b\n1,2\n").unwrap_err().contains("no column `TIMESTAMP`"));
        assert!(read("").is_err());
        assert!(read("TIMESTAMP,ContextTokens,GeneratedTokens\n").is_err());
    }
}
