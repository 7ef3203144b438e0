//! Numbers of payment cards (ISO/IEC 7812): 13 to 19 digits, perhaps in groups with a space or a dash between, that begin as
//! those of the large issuers do and whose last digit is the check digit of Luhn's method.

use std::ops::Range;

const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// Digits of one run that are looked at; longer runs are no cards, and are cut into such pieces.
const RUN_DIGITS_MAX: usize = 64;

/// Where card numbers are in a text, in order, without overlap.
pub(crate) fn find(text: &str, found: &mut Vec<Range<usize>>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() || at > 0 && is_word(bytes[at - 1]) {
            at += 1;
            continue;
        }
        let run = Run::from(bytes, at);
        at = run.end;
        if !bytes.get(run.end).copied().is_some_and(is_word) {
            run.find(found);
        }
    }
}

/// Beside such a character, digits are part of an id.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Groups of digits with one space or dash between.
struct Run {
    digits: Vec<u8>,
    places: Vec<usize>,
    /// Numbers of digits before which a group begins.
    begins: Vec<usize>,
    end: usize,
}

impl Run {
    fn from(bytes: &[u8], start: usize) -> Self {
        let mut run = Self { digits: Vec::new(), places: Vec::new(), begins: vec![0], end: start };
        while run.digits.len() < RUN_DIGITS_MAX {
            let gap = matches!(bytes.get(run.end), Some(b' ' | b'-')) && !run.digits.is_empty();
            let at = run.end + usize::from(gap);
            let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) else { break };
            if gap {
                run.begins.push(run.digits.len());
            }
            run.digits.push(digit - b'0');
            run.places.push(at);
            run.end = at + 1;
        }
        run
    }

    /// Looks at whole groups only, longest first.
    fn find(&self, found: &mut Vec<Range<usize>>) {
        let mut ends = self.begins.clone();
        ends.push(self.digits.len());
        let mut free = 0;
        for &begin in &self.begins {
            if begin < free {
                continue;
            }
            let candidates = ends.iter().rev().filter(|end| **end > begin && DIGITS.contains(&(**end - begin)));
            if let Some(&end) = candidates.into_iter().find(|end| is_card(&self.digits[begin..**end])) {
                found.push(self.places[begin]..self.places[end - 1] + 1);
                free = end;
            }
        }
    }
}

fn is_card(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    (2..=6).contains(&digits[0]) && sum % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        find(text, &mut found);
        assert_eq!(found.into_iter().map(|range| &text[range]).collect::<Vec<_>>(), expected, "{text:?}");
    }

    #[test]
    fn cards_are_found_and_other_numbers_are_not() {
        // Numbers that the card networks publish for tests.
        for card in ["4111111111111111", "5555 5555 5555 4444", "3782-822463-10005", "6011111111111117", "2223003122003222", "4222222222222"] {
            check(card, &[card]);
            check(&format!("pay with {card}, please"), &[card]);
            check(&format!("{{\"card\":\"{card}\"}}"), &[card]);
        }
        check("4111111111111111 and 5555555555554444", &["4111111111111111", "5555555555554444"]);
        check("order 12 4111 1111 1111 1111 33", &["4111 1111 1111 1111"]);
        check("ü4111111111111111ü", &["4111111111111111"]);
        for other in [
            "",
            "4111111111111112",
            "411111111111",
            "41111111111111111111",
            "x4111111111111111",
            "4111111111111111x",
            "4111  1111  1111  1111",
            "1700000000000000000",
            "0000000000000000",
            "9111111111111111",
            "2026-01-31 23:59:59",
            "+49 30 1234567",
        ] {
            check(other, &[]);
        }
        check(&"4".repeat(10_000), &[]);
    }
}
