//! From configuration to an object store, and the proof that it keeps the promises we build on.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
};
use secrecy::ExposeSecret;

use crate::{
    config::{AzureConfig, Backend, BucketLookup, ClientConfig, GcsConfig, LocalConfig, S3Config, SseKind, StorageConfig},
    error::{Result, StorageError, chain},
    keys::Keys,
    local::DurableFileSystem,
};

/// Builds the configured store. Makes no request.
pub(crate) fn build(config: &StorageConfig) -> Result<Arc<dyn ObjectStore>> {
    match config.backend {
        Backend::Local => local(&config.local),
        Backend::S3 => s3(&config.s3, &config.client),
        Backend::Gcs => gcs(&config.gcs, &config.client),
        Backend::Azure => azure(&config.azure, &config.client),
    }
}

/// The prefix of every key, from the section in use.
pub(crate) fn prefix(config: &StorageConfig) -> &str {
    match config.backend {
        Backend::Local => "",
        Backend::S3 => &config.s3.prefix,
        Backend::Gcs => &config.gcs.prefix,
        Backend::Azure => &config.azure.prefix,
    }
}

fn local(config: &LocalConfig) -> Result<Arc<dyn ObjectStore>> {
    let store = DurableFileSystem::open(&config.path).map_err(|e| {
        StorageError::Config(format!("local.path {:?} cannot be used: {e}", config.path.display()))
    })?;
    Ok(Arc::new(store))
}

fn s3(config: &S3Config, client: &ClientConfig) -> Result<Arc<dyn ObjectStore>> {
    required("s3.bucket", &config.bucket)?;
    if config.access_key.is_some() != config.secret_key.is_some() {
        return Err(StorageError::Config("s3.access_key and s3.secret_key go together: set both or none".into()));
    }
    let endpoint = url(&config.endpoint, config.insecure);
    let host = endpoint.split_once("://").map_or("", |(_, host)| host);
    let amazon = host.is_empty() || host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
    let in_host = match config.bucket_lookup_type {
        BucketLookup::Auto => amazon && !config.forcepathstyle,
        BucketLookup::Dns => true,
        BucketLookup::Path => false,
    };

    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&config.bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(in_host)
        .with_allow_http(config.insecure)
        .with_client_options(client_options(client).with_allow_http(config.insecure).with_allow_invalid_certificates(config.tls_insecure_skip_verify))
        .with_retry(retries(client));
    if !config.region.is_empty() {
        builder = builder.with_region(&config.region);
    }
    if !host.is_empty() {
        builder = match (in_host, endpoint.split_once("://")) {
            (true, Some((scheme, host))) => builder.with_endpoint(format!("{scheme}://{}.{host}", config.bucket)),
            _ => builder.with_endpoint(&endpoint),
        };
    }
    if let (Some(access), Some(secret)) = (&config.access_key, &config.secret_key) {
        builder = builder.with_access_key_id(access).with_secret_access_key(secret.expose_secret());
    }
    if let Some(token) = &config.session_token {
        builder = builder.with_token(token.expose_secret());
    }
    builder = match config.sse.kind {
        None => builder,
        Some(SseKind::S3) => {
            let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(unbuildable)?;
            builder.with_config(key, "AES256")
        },
        Some(SseKind::Kms) => {
            required("s3.sse.kms_key_id", &config.sse.kms_key_id)?;
            builder.with_sse_kms_encryption(&config.sse.kms_key_id)
        }
        Some(SseKind::Customer) => {
            let key = config.sse.encryption_key.as_ref().ok_or_else(|| missing("s3.sse.encryption_key"))?;
            builder.with_ssec_encryption(key.expose_secret())
        }
    };
    Ok(Arc::new(builder.build().map_err(unbuildable)?))
}

fn gcs(config: &GcsConfig, client: &ClientConfig) -> Result<Arc<dyn ObjectStore>> {
    required("gcs.bucket_name", &config.bucket_name)?;
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&config.bucket_name)
        .with_client_options(client_options(client).with_allow_http(config.insecure))
        .with_retry(retries(client));
    if !config.endpoint.is_empty() {
        builder = builder.with_base_url(&url(&config.endpoint, config.insecure));
    }
    if let Some(path) = &config.service_account_path {
        builder = builder.with_service_account_path(path.to_string_lossy());
    }
    Ok(Arc::new(builder.build().map_err(unbuildable)?))
}

fn azure(config: &AzureConfig, client: &ClientConfig) -> Result<Arc<dyn ObjectStore>> {
    required("azure.container_name", &config.container_name)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&config.container_name)
        .with_client_options(client_options(client).with_allow_http(config.use_emulator))
        .with_retry(retries(client));
    if config.use_emulator {
        builder = builder.with_use_emulator(true);
    } else {
        required("azure.storage_account_name", &config.storage_account_name)?;
    }
    if !config.storage_account_name.is_empty() {
        builder = builder.with_account(&config.storage_account_name);
    }
    if let Some(key) = &config.storage_account_key {
        builder = builder.with_access_key(key.expose_secret());
    }
    if !config.user_assigned_id.is_empty() {
        builder = builder.with_client_id(&config.user_assigned_id);
    }
    if !config.endpoint_suffix.is_empty() {
        builder = builder.with_endpoint(format!("https://{}.{}", config.storage_account_name, config.endpoint_suffix));
    }
    Ok(Arc::new(builder.build().map_err(unbuildable)?))
}

fn client_options(client: &ClientConfig) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_millis(client.connect_timeout_ms))
        .with_timeout(Duration::from_millis(client.request_timeout_ms))
        .with_pool_max_idle_per_host(64)
}

fn retries(client: &ClientConfig) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(client.retry_backoff_min_ms),
            max_backoff: Duration::from_millis(client.retry_backoff_max_ms),
            base: 2.0,
        },
        max_retries: client.retries_max,
        retry_timeout: Duration::from_millis(client.retry_timeout_ms),
    }
}

fn url(endpoint: &str, insecure: bool) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint {
        "" => String::new(),
        given if given.contains("://") => given.to_owned(),
        host if insecure => format!("http://{host}"),
        host => format!("https://{host}"),
    }
}

fn required(key: &str, value: &str) -> Result<()> {
    if value.is_empty() { Err(missing(key)) } else { Ok(()) }
}

fn missing(key: &str) -> StorageError {
    StorageError::Config(format!("{key} is not set"))
}

fn unbuildable(error: Error) -> StorageError {
    StorageError::Config(error.to_string())
}

/// Proves that the store lets exactly one of two creates win, reads ranges, lists what was written, and knows at once that
/// something was deleted.
/// Everything that commits stands on the first of these; some servers accept both creates.
///
/// # Errors
/// [`StorageError::Unfit`] says what does not hold or what the store refused, and what to look at.
pub(crate) async fn probe(store: &dyn ObjectStore, keys: &Keys) -> Result<()> {
    let key = keys.probe();
    let mine = key.filename().unwrap_or_default().to_owned();
    let refused = |step: &str, e: Error| {
        StorageError::Unfit(format!(
            "{step} {key} failed: {}; check bucket, endpoint, region, credentials and their rights",
            chain(&e)
        ))
    };

    match store.put_opts(&key, mine.clone().into(), PutMode::Create.into()).await {
        // "Already exists" is our own write when the client repeated it after a lost answer.
        Ok(_) | Err(Error::AlreadyExists { .. }) => {}
        Err(e) => return Err(refused("creating", e)),
    }
    let second = store.put_opts(&key, "second".into(), PutMode::Create.into()).await;
    let whole = store.get(&key).await.map_err(|e| refused("reading", e))?.bytes().await.map_err(|e| refused("reading", e))?;
    match second {
        Err(Error::AlreadyExists { .. }) if whole == mine.as_bytes() => {}
        Err(Error::AlreadyExists { .. }) | Ok(_) => {
            // Left behind on failure this would do no harm, but it can be removed.
            let _ = store.delete(&key).await;
            return Err(StorageError::Unfit(
                "it accepted two creates of one key (If-None-Match: * is not honoured), so two writers would \
                 overwrite each other's commits; use a server or version that supports conditional writes"
                    .into(),
            ));
        }
        Err(e) => return Err(refused("creating again", e)),
    }
    let range = store.get_range(&key, 1..7).await.map_err(|e| refused("reading a range of", e))?;
    if range != mine.as_bytes()[1..7] {
        return Err(StorageError::Unfit(format!("bytes 1 to 6 of {key} are not what was written: {range:?}")));
    }
    let prefix = Some(keys.prefix()).filter(|p| !p.as_ref().is_empty());
    let listed = store
        .list_with_delimiter(prefix)
        .await
        .map_err(|e| refused("listing the folder of", e))?
        .objects
        .iter()
        .any(|object| object.location == key);
    if !listed {
        return Err(StorageError::Unfit(format!("{key} was written and read, but a listing does not show it")));
    }
    match store.delete(&key).await {
        // A writer without the right to delete is a legitimate set-up.
        Err(e) => tracing::warn!(%key, error = %chain(&e), "the start-up probe object could not be deleted"),
        Ok(()) => match store.get(&key).await {
            Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(refused("reading the deleted", e)),
            Ok(_) => {
                return Err(StorageError::Unfit(format!(
                    "{key} was deleted and can still be read: a cache in front of the store, or one that answers from an \
                     old copy, would hide commits; take it out of the way"
                )));
            }
        },
    }
    Ok(())
}
