//! Imports into an endpoint that remembers, exports from a server that is made up.

mod blocks;
mod delivery;
mod endpoint;
mod export;
mod tempo;
