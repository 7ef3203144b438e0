//! The program's settings and what it shows.

mod config;
mod process;
mod render;
