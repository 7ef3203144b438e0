//! What is taken out of spans: rules of the configuration, and of a file that is read again when it changes, as the salt is.

use std::sync::Arc;

use distributor::CurrentRedactor;
use follow::{Followed, Source};
use redact::{Counts, Redactor, RuleSettings};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Of the rules and of the salt. 64 rules have some KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone)]
pub struct Redaction {
    /// Without files: those of the configuration, for good.
    current: Followed<Redactor>,
    pub counts: Counts,
}

impl Redaction {
    /// `None` where nothing can ever be taken out.
    ///
    /// # Errors
    /// Names the file or the rule that cannot be used.
    pub fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        let settings = &config.distributor.redaction;
        if settings.rules.is_empty() && settings.rules_file.is_none() {
            return Ok(None);
        }
        let (salted, files) = (settings.salt_file.is_some(), [&settings.salt_file, &settings.rules_file]);
        let files = files.into_iter().flatten().cloned().collect();
        let source = Source { name: "the redaction rules", files, bytes_max: FILE_BYTES_MAX };
        let (config, counts) = (config.clone(), Counts::default());
        let counted = counts.clone();
        let current = Followed::open(source, move |files| {
            let (salt, rules) = files.split_at(usize::from(salted));
            let rules = rules.first().map_or(Ok(vec![]), |file| parse(file))?;
            let redactor = config.redactor(&rules, salt.first().map(Vec::as_slice), &counted);
            redactor.map_err(|invalid| invalid.message)
        })?;
        Ok(Some(Self { current, counts }))
    }

    pub fn redactor(&self) -> CurrentRedactor {
        let current = self.current.clone();
        Arc::new(move || current.current())
    }

    /// How often changed files could not be used.
    pub fn reload_failures(&self) -> u64 {
        self.current.failures()
    }

    pub async fn follow(self, config: Config, shutdown: CancellationToken) {
        self.current.follow(config.distributor.redaction.reload_interval.0, shutdown, |_| {}).await;
    }
}

/// A list of rules. An empty file is none: it may be one that is being written, and would let everything through.
fn parse(file: &[u8]) -> Result<Vec<RuleSettings>, String> {
    let text = std::str::from_utf8(file).map_err(|_| "the file is not UTF-8")?;
    let rules: Option<Vec<RuleSettings>> =
        serde_saphyr::from_str(text).map_err(|error| format!("not a list of rules: {error}"))?;
    rules.ok_or_else(|| "the file is empty; for no rules write []".to_owned())
}
