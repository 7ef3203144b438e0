// `cfg(fuzzing)` is set by fuzzers.
#![allow(unexpected_cfgs)]

mod fuzz;
mod generated;
mod hostile;
mod queries;
