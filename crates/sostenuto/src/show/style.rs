//! How wide the terminal is and whether it shows colours.

use std::io::IsTerminal;

use chrono::{DateTime, FixedOffset, Local, Utc};
use unicode_width::UnicodeWidthStr;

/// What is known of where text goes.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub colour: bool,
    /// A person is watching: lines may be rewritten in place.
    pub interactive: bool,
    /// Columns.
    pub columns: usize,
    /// Times are shown in this zone.
    pub zone: FixedOffset,
}

/// The columns of output that goes to a file or a pipe.
const COLUMNS_DEFAULT: usize = 120;
/// Narrower than this nothing can be laid out.
const COLUMNS_MIN: usize = 40;

/// Colours that can be read on light and dark backgrounds.
const PALETTE: [u8; 6] = [36, 33, 35, 34, 32, 96];

impl Style {
    /// Plain text of a fixed width, in UTC.
    pub fn plain(columns: usize) -> Self {
        Self { colour: false, interactive: false, columns, zone: FixedOffset::east_opt(0).expect("UTC exists") }
    }

    /// Of a stream of this process; `columns` is its width if it is a terminal.
    pub fn detect(stream: &impl IsTerminal, columns: Option<u16>) -> Self {
        let terminal = stream.is_terminal();
        // https://no-color.org: any value but the empty one switches colours off.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            colour: terminal && !no_colour && !dumb,
            interactive: terminal && !dumb,
            columns: columns.map_or(COLUMNS_DEFAULT, usize::from).max(COLUMNS_MIN),
            zone: *Local::now().offset(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// One of a few colours, the same for the same number.
    pub fn colour(self, number: usize, text: &str) -> String {
        self.paint(&PALETTE[number % PALETTE.len()].to_string(), text)
    }

    /// Unix nanoseconds as a moment in the zone of this style.
    pub fn time(self, unix_nano: u64) -> DateTime<FixedOffset> {
        let seconds = (unix_nano / 1_000_000_000) as i64;
        DateTime::<Utc>::from_timestamp(seconds, (unix_nano % 1_000_000_000) as u32)
            .unwrap_or_default()
            .with_timezone(&self.zone)
    }
}

/// The columns that `text` takes. No control characters are in it: see [`super::plain`].
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}
