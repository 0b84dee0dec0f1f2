//! Rules as the tests need them: quick, or true of anything.

/// The rules with alerts that fire after three seconds instead of minutes.
pub fn hurried(rules: &str) -> String {
    let lines = rules.lines().map(|line| {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("for: ") {
            format!("{}for: 3s", &line[..indent])
        } else {
            line.to_owned()
        }
    });
    lines.map(|line| line + "\n").collect()
}

/// The parts of an alert's expression, each true of any number: an expression whose data is there gives
/// a series, however well everything is.
///
/// Offsets go, since a new Prometheus has no past; what is subtracted from the alert by `unless` is a part
/// of its own.
pub fn relaxed(expr: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut words = expr.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let last = parts.last_mut().expect("there is always one");
        match word {
            "unless" => parts.push(String::new()),
            // A limit is a number or a product of numbers; else both sides are series.
            ">" | "<" | ">=" | "<=" | "==" if words.peek().is_some_and(|w| number(w)) => {
                last.push_str(closing(words.next().expect("it was peeked at")));
                while words.peek() == Some(&"*") {
                    words.next();
                    match words.next_if(|w| number(w)) {
                        Some(factor) => last.push_str(closing(factor)),
                        // Of a series: `> 1.2 * series`.
                        None => last.push_str(" or"),
                    }
                }
            }
            "offset" => {
                let until = words.next().expect("an offset has a duration");
                last.push_str(closing(until));
            }
            word => {
                last.push(' ');
                last.push_str(word);
            }
        }
    }
    for part in &mut parts {
        if let Some(inner) = part.trim().strip_prefix("absent(").and_then(|p| p.strip_suffix(')')) {
            *part = inner.to_owned();
        }
    }
    parts
}

/// The parentheses that end a word.
fn closing(word: &str) -> &str {
    &word[word.trim_end_matches(')').len()..]
}

fn number(word: &str) -> bool {
    word.trim_end_matches(')').parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_offsets_go() {
        let parts =
            |text: &str| relaxed(text).iter().map(|p| p.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            parts("a:b > 14.4 * 0.005\nand\nrate(c[5m]) * 300 >= 20"),
            ["a:b and rate(c[5m]) * 300"]
        );
        assert_eq!(parts("x == 0 and increase(y[1h] offset 15m) >= 60"), ["x and increase(y[1h])"]);
        assert_eq!(parts("x > 0 unless y > 0"), ["x", "y"]);
        assert_eq!(parts("x > 1.2 * sum (x offset 6h)"), ["x or sum (x)"]);
        assert_eq!(parts("1 - a / (b > 0) > 0.05"), ["1 - a / (b)"]);
        assert_eq!(parts("absent(up{x=\"y\"})"), ["up{x=\"y\"}"]);
    }

    #[test]
    fn only_the_time_changes() {
        assert_eq!(hurried("  for: 10m\n  expr: for\n"), "  for: 3s\n  expr: for\n");
    }
}
