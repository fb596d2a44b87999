//! The text format of Prometheus, read: names, labels, values. Own code, because the library for it takes a `}` in a label's
//! value for the end of the labels, and makes an object of every series; here a series that is not wanted costs its line.

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric.
    pub name: String,
    /// Labels, in the order in which they stand there.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// Largest value that is one: some programs write the largest integer for what they do not know.
const SENTINEL: f64 = 9e15;
/// Most samples that are kept.
pub const MOST: usize = 20_000;

impl Sample {
    /// A label's value; nothing where it is empty, or says that there is none.
    pub fn label(&self, name: &str) -> Option<&str> {
        let value = self.labels.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty() && *value != "None")
    }

    /// The value, where it is a number that somebody knows.
    pub fn known(&self) -> Option<f64> {
        (self.value.is_finite() && self.value.abs() < SENTINEL).then_some(self.value)
    }

    /// What tells this series from others.
    pub fn series(&self) -> String {
        let labels: Vec<String> =
            self.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{}{{{}}}", self.name, labels.join(","))
    }
}

/// The samples of the metrics that `wanted` names, and how many lines could not be read.
pub fn read(text: &str, wanted: impl Fn(&str) -> bool) -> (Vec<Sample>, usize) {
    let (mut samples, mut broken) = (Vec::new(), 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let end = line.find(['{', ' ', '\t']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        if !wanted(name) {
            continue;
        }
        match sample(name, rest) {
            Some(sample) if samples.len() < MOST => samples.push(sample),
            _ => broken += 1,
        }
    }
    (samples, broken)
}

fn sample(name: &str, rest: &str) -> Option<Sample> {
    let mut labels = Vec::new();
    let rest = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest, &mut labels)?,
        None => rest,
    };
    let value = rest.split_whitespace().next()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// Reads labels up to their end; what stands behind it.
fn read_labels<'t>(mut rest: &'t str, labels: &mut Vec<(String, String)>) -> Option<&'t str> {
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some(rest);
        }
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start().strip_prefix('"')?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name.trim().to_owned(), value));
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_labels_and_values_are_read_as_they_were_written() {
        let text = "# HELP a x\n# TYPE a counter\na_total{code=\"429\", source=\"exit\",odd=\"}\\\"\\\\\\n,=\",} 3.0 1395066363000\nb 1e3\nc{x=\"None\"} 9.223372036854776e+18\nbroken{ 1\nother 5\n";
        let (samples, broken) = read(text, |name| name != "other");
        assert_eq!(broken, 1);
        assert_eq!(samples[0].label("code"), Some("429"));
        assert_eq!(samples[0].label("odd"), Some("}\"\\\n,="));
        assert_eq!((samples[0].value, samples[1].value), (3.0, 1_000.0));
        assert_eq!((samples[2].label("x"), samples[2].known()), (None, None), "nobody knows it");
        assert_eq!(samples.len(), 3);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,200}") {
            read(&text, |_| true);
        }
    }
}
