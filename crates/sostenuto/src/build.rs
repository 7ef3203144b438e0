//! What this program was built from.

use api::BuildInfo;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A release build sets the `SOSTENUTO_BUILD_*` variables; other builds say that they do not know.
pub fn info() -> BuildInfo {
    let known = |value: Option<&str>| value.unwrap_or("unknown").to_owned();
    BuildInfo {
        version: VERSION.to_owned(),
        revision: known(option_env!("SOSTENUTO_BUILD_REVISION")),
        branch: known(option_env!("SOSTENUTO_BUILD_BRANCH")),
        built_by: known(option_env!("SOSTENUTO_BUILD_USER")),
        built_at: known(option_env!("SOSTENUTO_BUILD_DATE")),
        compiler: known(option_env!("SOSTENUTO_BUILD_RUSTC")),
    }
}
