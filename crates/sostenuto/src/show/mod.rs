//! What a person sees at a terminal. Everything here turns values into text and prints nothing.

pub mod block;
pub mod explain;
pub mod retention;
pub mod search;
pub mod series;
mod style;
pub mod waterfall;

pub use style::Style;

/// A duration in three figures or so: `640ns`, `84µs`, `12.3ms`, `1.05s`, `2m03s`, `1h20m`.
pub fn duration(nanos: u64) -> String {
    let scaled = |divisor: f64, unit: &str| {
        let value = nanos as f64 / divisor;
        let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        let text = format!("{value:.decimals$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text}{unit}")
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..999_500 => scaled(1e3, "µs"),
        999_500..999_500_000 => scaled(1e6, "ms"),
        999_500_000..60_000_000_000 => scaled(1e9, "s"),
        _ => {
            let seconds = nanos / 1_000_000_000;
            match seconds / 3600 {
                0 => format!("{}m{:02}s", seconds / 60, seconds % 60),
                hours => format!("{hours}h{:02}m", seconds % 3600 / 60),
            }
        }
    }
}

/// A count with commas between thousands.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in three figures: `812 B`, `4.1 KiB`, `37 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let decimals = usize::from(unit != "B" && value < 9.95);
    format!("{value:.decimals$} {unit}")
}

/// `1 span`, `2 spans`.
pub fn plural(count: usize, word: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {word}{s}", thousands(count as u64))
}

/// Text that cannot move the cursor or change colours: traces are written by others.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text` in at most `width` columns, with `…` in the place of what was cut.
pub fn clip(text: &str, width: usize) -> String {
    if style::width(text) <= width {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += style::width(c.encode_utf8(&mut [0; 4]));
        if used > width {
            break;
        }
        clipped.push(c);
    }
    if width > 0 {
        clipped.push('…');
    }
    clipped
}

/// `text` clipped or filled with spaces to exactly `width` columns.
pub fn fit(text: &str, width: usize) -> String {
    let clipped = clip(text, width);
    let fill = width.saturating_sub(style::width(&clipped));
    format!("{clipped}{}", " ".repeat(fill))
}

pub use style::width;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_at_a_glance() {
        for (nanos, text) in [
            (0, "0s"),
            (640, "640ns"),
            (84_000, "84µs"),
            (999_600, "1ms"),
            (12_340_000, "12.3ms"),
            (1_049_000_000, "1.05s"),
            (59_990_000_000, "60s"),
            (123_000_000_000, "2m03s"),
            (4_800_000_000_000, "1h20m"),
            (u64::MAX, "5124095h34m"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn counts_and_sizes() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(4_200), "4.1 KiB");
        assert_eq!(bytes(38_797_312), "37 MiB");
        assert_eq!(plural(1, "span"), "1 span");
    }

    #[test]
    fn wide_letters_take_two_columns() {
        assert_eq!(clip("checkout", 8), "checkout");
        assert_eq!(clip("checkout", 5), "chec…");
        assert_eq!(clip("日本語", 4), "日…");
        assert_eq!(fit("ab", 4), "ab  ");
        assert_eq!(plain("a\x1b[2Jb"), "a [2Jb");
    }
}
