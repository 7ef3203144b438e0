//! In place of the receiver of Kafka's topics where the program was built without it.

use api::Metrics;
use distributor::Distributor;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// There is none.
#[derive(Clone)]
pub enum Kafka {}

/// # Errors
/// If the configuration asks for what is not there.
pub fn open(config: &Config) -> anyhow::Result<Option<Kafka>> {
    match config.distributor.receivers.kafka {
        None => Ok(None),
        Some(_) => anyhow::bail!(
            "distributor.receivers.kafka: this program was built without Kafka; build it with the feature `kafka`"
        ),
    }
}

pub fn start(_: Option<&Kafka>, _: &Distributor, _: &CancellationToken, _: &mut JoinSet<()>) -> anyhow::Result<()> {
    Ok(())
}

pub fn describe(kafka: &Kafka) -> String {
    match *kafka {}
}

pub fn observe(_: &Metrics, kafka: &Kafka) {
    match *kafka {}
}
