//! Numbers in few characters.

/// Seconds: `850us`, `12.3ms`, `1.25s`, `2m05`.
pub fn time(seconds: f64) -> String {
    let us = seconds * 1e6;
    if !us.is_finite() || us < 0.0 {
        "-".into()
    } else if us < 999.5 {
        format!("{us:.0}us")
    } else if us < 99_950.0 {
        format!("{:.1}ms", us / 1e3)
    } else if us < 999_500.0 {
        format!("{:.0}ms", us / 1e3)
    } else if seconds < 99.95 {
        format!("{seconds:.1}s")
    } else {
        let whole = seconds as u64;
        format!("{}m{:02}", whole / 60, whole % 60)
    }
}

/// A number or a rate: `0`, `0.4`, `12.5`, `380`, `12.4k`, `3.1M`.
pub fn number(n: f64) -> String {
    if n == 0.0 {
        "0".into()
    } else if n < 99.95 {
        let text = format!("{n:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    } else if n < 9_999.5 {
        format!("{n:.0}")
    } else if n < 999_950.0 {
        format!("{:.1}k", n / 1e3)
    } else {
        format!("{:.1}M", n / 1e6)
    }
}

/// A ratio as percent.
pub fn percent(ratio: f64) -> String {
    let p = ratio * 100.0;
    if p == 0.0 {
        "0%".into()
    } else if p < 9.95 {
        format!("{p:.1}%")
    } else {
        format!("{p:.0}%")
    }
}

/// The time of day in UTC of a moment since the Unix epoch.
pub fn clock(unix: f64) -> String {
    let s = unix.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_characters() {
        let times = [0.0, 0.00085, 0.0123, 0.25, 1.25, 99.9, 125.0, f64::NAN].map(time);
        assert_eq!(times, ["0us", "850us", "12.3ms", "250ms", "1.2s", "99.9s", "2m05", "-"]);
        let numbers = [0.0, 0.4, 12.0, 12.5, 380.4, 12_400.0, 3_100_000.0].map(number);
        assert_eq!(numbers, ["0", "0.4", "12", "12.5", "380", "12.4k", "3.1M"]);
        assert_eq!([0.0, 0.012, 0.5].map(percent), ["0%", "1.2%", "50%"]);
        assert_eq!(clock(86_399.5), "23:59:59");
    }
}
