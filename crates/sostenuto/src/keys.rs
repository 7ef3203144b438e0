//! `sostenuto keys create`: an API key, which is shown once, and the line that lets it in.

use std::io::Write;

use chrono::Utc;
use door::{NewKey, Role};

use crate::{ask::Mistake, config::GoDuration};

#[derive(clap::Args, Clone, Debug)]
pub struct CreateArgs {
    /// What the key may: read, write, metrics or admin; may be given several times
    #[arg(long = "role", value_name = "ROLE", required = true)]
    pub roles: Vec<Role>,
    /// Whose spans; may be given several times, and '*' is everybody's. Without multi-tenancy it decides nothing
    #[arg(long = "tenant", value_name = "ID", default_value = "*")]
    pub tenants: Vec<String>,
    /// Its name in the file, in the audit log and for basic authentication; random unless given
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// How long it lasts, such as 2160h; for ever unless given
    #[arg(long, value_name = "DURATION")]
    pub expires_in: Option<GoDuration>,
    /// For people: who has it
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

pub fn create(args: &CreateArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let CreateArgs { roles, tenants, id, expires_in, note } = args.clone();
    let expires = match expires_in {
        Some(GoDuration(after)) => Some(
            chrono::Duration::from_std(after)
                .ok()
                .and_then(|after| Utc::now().checked_add_signed(after))
                .ok_or_else(|| Mistake("--expires-in: that is too far away".to_owned()))?,
        ),
        None => None,
    };
    let NewKey { key, entry } = NewKey::make(id, roles, tenants, expires, note).map_err(Mistake)?;
    writeln!(out, "The key, which is shown this once:\n\n{key}\n")?;
    writeln!(out, "The line for the file of authentication.keys_file, which does not hold it:\n\n{}", entry.line())?;
    Ok(true)
}
