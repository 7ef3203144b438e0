//! Fuzz target: no bytes make the reader of sampling strategies panic, and what it takes it takes again as the same.
//!
//! Bytes come at random here, the same in every run; `CONTRIBUTING.md` says how to let coverage guide them.

use std::cell::Cell;

use api::Strategies;
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, TestRunner},
};

/// Without `PROPTEST_CASES`.
const FILES: u32 = 4_000;
const BYTES_MAX: usize = 120;

const KINDS: [&str; 5] = ["\"probabilistic\"", "\"ratelimiting\"", "\"often\"", "null", "7"];
const PARAMETERS: [&str; 12] = ["0.5", "0", "1", "2", "-1", "1e400", "1e-400", "2147483648", "null", "\"1\"", "[1]", "0.1"];
const NAMES: [&str; 8] = ["\"shop\"", "\"mail\"", "\"\"", "\"shop\"", "\"\\u0000\"", "\"ä\"", "null", "{}"];

/// Each byte makes a choice; zeros when there are no more.
struct Speller<'a>(std::slice::Iter<'a, u8>);

impl Speller<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % bound
    }

    /// The first most of the time.
    fn pick(&mut self, of: &[&str]) -> String {
        let at = if self.below(4) == 1 { self.below(of.len()) } else { 0 };
        of[at].to_owned()
    }

    fn list(&mut self, mut each: impl FnMut(&mut Self) -> String) -> String {
        let elements: Vec<String> = (0..self.below(4)).map(|_| each(self)).collect();
        format!("[{}]", elements.join(","))
    }

    fn strategy(&mut self) -> String {
        let (kind, parameter) = (self.pick(&KINDS), self.pick(&PARAMETERS));
        let operation = |speller: &mut Self| {
            format!("{{\"operation\":{},\"type\":{},\"param\":{}}}", speller.pick(&NAMES), speller.pick(&KINDS), speller.pick(&PARAMETERS))
        };
        format!("\"type\":{kind},\"param\":{parameter},\"operation_strategies\":{}", self.list(operation))
    }

    fn file(&mut self) -> String {
        let default = self.strategy();
        let mut number = 0;
        let services = self.list(|speller| {
            number += 1;
            let name = if speller.below(4) == 1 { speller.pick(&NAMES) } else { format!("\"service {number}\"") };
            format!("{{\"service\":{name},{}}}", speller.strategy())
        });
        format!("{{\"default_strategy\":{{{default}}},\"service_strategies\":{services}}}")
    }
}

/// Whether the file was taken.
fn asked(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else { return Strategies::parse(&[]).is_ok() };
    let mut speller = Speller(rest.iter());
    let file = match kind % 4 {
        0 => rest.to_vec(),
        1 => {
            let mut file = speller.file().into_bytes();
            let at = speller.below(256) % file.len();
            file[at] = speller.below(256) as u8;
            file
        }
        _ => speller.file().into_bytes(),
    };
    match Strategies::parse(&file) {
        Ok(strategies) => {
            assert_eq!(Strategies::parse(&file), Ok(strategies));
            true
        }
        Err(what) => {
            assert!(!what.is_empty());
            false
        }
    }
}

#[test]
fn strategies() {
    #[cfg(fuzzing)]
    bolero::check!().for_each(|bytes: &[u8]| {
        asked(bytes);
    });
    #[cfg(not(fuzzing))]
    bounded();
}

#[cfg_attr(fuzzing, allow(dead_code))]
fn bounded() {
    let cases = std::env::var("PROPTEST_CASES").map_or(FILES, |number| number.parse().expect("PROPTEST_CASES is a number"));
    let taken = Cell::new(0);
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let outcome = TestRunner::new(config).run(&vec(any::<u8>(), 0..BYTES_MAX), |bytes| {
        taken.set(taken.get() + u32::from(asked(&bytes)));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(taken.get() > cases / 20, "only {} of {cases} files were taken", taken.get());
}
