//! Asks a running server over HTTP, for the commands that show what it knows.

use std::{fmt, fs, io::Write, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow, bail};
use reqwest::{
    Certificate, Client, ClientBuilder, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// The most characters of an error answer that are repeated.
const ERROR_CHARS_MAX: usize = 2_000;

#[derive(clap::Args, Clone, Debug)]
pub struct ServerArgs {
    /// The server to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3200", env = "SOSTENUTO_SERVER")]
    pub server: String,
    /// The tenant to ask as, where multi-tenancy is on
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// How to get into a server that does not let everybody in.
#[derive(clap::Args, Clone, Default)]
pub struct AccessArgs {
    /// A file with an API key or a token; the environment variable SOSTENUTO_TOKEN may hold one instead
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    // Not for the command line, where everybody on the machine can read it.
    #[arg(long, hide = true, env = "SOSTENUTO_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Authorities to trust beside the system's, PEM
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for AccessArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessArgs").field("token_file", &self.token_file).field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl AccessArgs {
    /// The value of `Authorization`, if there is something to show.
    pub fn authorization(&self) -> anyhow::Result<Option<HeaderValue>> {
        let token = match &self.token_file {
            Some(path) => Some(fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?),
            None => self.token.clone(),
        };
        let Some(token) = token.filter(|token| !token.trim().is_empty()) else { return Ok(None) };
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| anyhow!("the token has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// A client that shows it and trusts them.
    pub fn client(&self) -> anyhow::Result<ClientBuilder> {
        let mut client = Client::builder();
        if let Some(value) = self.authorization()? {
            client = client.default_headers(HeaderMap::from_iter([(header::AUTHORIZATION, value)]));
        }
        if let Some(path) = &self.ca_file {
            let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            for authority in Certificate::from_pem_bundle(&pem).with_context(|| format!("{} has no certificates", path.display()))? {
                client = client.add_root_certificate(authority);
            }
        }
        Ok(client)
    }
}

/// What a server answered.
pub struct Answer {
    pub body: Vec<u8>,
    /// What the answer lacks, if the server says so.
    pub partial: Option<String>,
}

pub struct Server {
    client: Client,
    base: Url,
    tenant: Option<String>,
}

impl Server {
    pub fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        let base = match args.server.contains("://") {
            true => Url::parse(&args.server),
            false => Url::parse(&format!("http://{}", args.server)),
        };
        let base = base
            .ok()
            .filter(|url| !url.cannot_be_a_base() && url.has_host())
            .with_context(|| format!("{:?} is not a URL; write for example http://127.0.0.1:3200", args.server))?;
        let client = args.access.client()?.timeout(TIMEOUT).connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Self { client, base, tenant: args.tenant.clone() })
    }

    /// A successful answer to `GET path?parameters`. `None` where the answer is 404.
    pub async fn get(
        &self,
        path: &[&str],
        parameters: &[(&str, String)],
        accept: &str,
    ) -> anyhow::Result<Option<Answer>> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("checked when it was parsed").pop_if_empty().extend(path);
        url.query_pairs_mut().extend_pairs(parameters);
        let mut request = self.client.get(url).header(header::ACCEPT, accept);
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let partial = response.headers().get("sostenuto-partial");
        let partial = partial.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = self.read(response).await?;
        match status {
            status if status.is_success() => Ok(Some(Answer { body, partial })),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(self.refused(status, &body)),
        }
    }

    /// Writes the body of a successful answer to `POST path` to `out` as it comes. Returns what the answer lacks.
    pub async fn post(&self, path: &[&str], text: String, accept: &str, out: &mut impl Write) -> anyhow::Result<Option<String>> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("checked when it was parsed").pop_if_empty().extend(path);
        let mut request = self.client.post(url).header(header::ACCEPT, accept).body(text);
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(self.refused(status, &self.read(response).await?));
        }
        let partial = response.headers().get("sostenuto-partial");
        let partial = partial.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            out.write_all(&part)?;
        }
        Ok(partial)
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        let said: String = String::from_utf8_lossy(body).trim().chars().take(ERROR_CHARS_MAX).collect();
        match said.is_empty() {
            true => anyhow!("{} answered {status}", self.base),
            false => anyhow!("{} answered {status}: {}", self.base, crate::show::plain(&said)),
        }
    }

    async fn read(&self, mut response: Response) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                bail!("the answer is larger than {} MiB; ask for less", ANSWER_BYTES_MAX >> 20);
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        if error.is_connect() {
            anyhow!(
                "nothing listens on {}; start `sostenuto serve` first, or name another server with --server",
                self.base
            )
        } else if error.is_timeout() {
            anyhow!("{} gave no answer within {} s", self.base, TIMEOUT.as_secs())
        } else {
            anyhow!("the connection to {} broke: {error}", self.base)
        }
    }
}
