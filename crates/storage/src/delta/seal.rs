//! A checksum inside the file that it is of.
//!
//! Neither commits nor checkpoints have one by Delta's protocol, and a flipped bit in a path or a statistic would be
//! believed. So our files carry a text, [`BLANK`], where the protocol allows any, and its zeros are replaced by the CRC32C
//! of the whole file as it was with them. Files of other programs have none and are taken as they are; so is a file whose
//! damage lies in the text before the digits, as then nothing else is damaged.

use crate::chunks::crc32c;

/// What a file carries before it is sealed.
pub(crate) const BLANK: &str = "sostenuto-crc32c=00000000";

const DIGITS: usize = 8;
const NAME: &[u8] = BLANK.as_bytes().split_at(BLANK.len() - DIGITS).0;

/// Which occurrence of the text is ours: names and values of senders stand behind or before it.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    First,
    Last,
}

/// Puts the checksum in its place.
pub(crate) fn seal(file: &mut [u8], place: Place) {
    let at = find(file, place).expect("a file of ours has room for its checksum");
    let crc = crc32c(file);
    file[at..at + DIGITS].copy_from_slice(format!("{crc:08x}").as_bytes());
}

/// # Errors
/// What the checksum is and what it should be.
pub(crate) fn check(file: &[u8], place: Place) -> Result<(), String> {
    let Some(at) = find(file, place) else { return Ok(()) };
    let mut blank = file.to_vec();
    blank[at..at + DIGITS].fill(b'0');
    let crc = format!("{:08x}", crc32c(&blank));
    match file[at..at + DIGITS] == *crc.as_bytes() {
        true => Ok(()),
        false => Err(format!("it has CRC32C {crc}, and says {}", file[at..at + DIGITS].escape_ascii())),
    }
}

/// Where the digits begin.
fn find(file: &[u8], place: Place) -> Option<usize> {
    let mut places = file.windows(NAME.len() + DIGITS);
    let ours = |window: &[u8]| window.starts_with(NAME);
    let at = match place {
        Place::First => places.position(ours),
        Place::Last => places.rposition(ours),
    };
    at.map(|at| at + NAME.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed_or_lies_in_the_name() {
        for place in [Place::First, Place::Last] {
            let mut file = format!("{{\"a\":\"{BLANK}\",\"b\":12}}").into_bytes();
            seal(&mut file, place);
            check(&file, place).unwrap();
            let name = find(&file, place).unwrap() - NAME.len();
            for bit in 0..file.len() * 8 {
                let mut damaged = file.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let noticed = check(&damaged, place).is_err();
                assert_eq!(noticed, !(name..name + NAME.len()).contains(&(bit / 8)), "bit {bit}");
            }
        }
    }

    #[test]
    fn the_same_text_from_a_sender_is_left_alone() {
        let mut file = format!("{BLANK} and then {BLANK}").into_bytes();
        seal(&mut file, Place::First);
        assert!(file.ends_with(BLANK.as_bytes()));
        check(&file, Place::First).unwrap();
    }

    #[test]
    fn a_file_of_another_program_is_taken_as_it_is() {
        check(b"{}", Place::First).unwrap();
        check(b"", Place::Last).unwrap();
    }
}
