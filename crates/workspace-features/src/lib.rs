//! No code: names one set of features for the third-party crates that several of ours share.
//!
//! Cargo would otherwise choose another set for every `-p` selection and build DataFusion again for each.
//! `cargo hakari generate` writes the manifest anew after a dependency changed.
