//! The file of strategies.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::message::{Operation, Operations, Probabilistic, RateLimiting, Strategy};

pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// What Jaeger's servers say where nothing was said to them.
const RATE_DEFAULT: f64 = 0.001;
const PROBABILISTIC: i32 = 0;
const RATE_LIMITING: i32 = 1;

/// What each service shall do.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategies {
    default: Strategy,
    services: BTreeMap<String, Strategy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default_strategy: Option<Of>,
    #[serde(default)]
    service_strategies: Vec<OfService>,
}

#[derive(Deserialize)]
struct OfService {
    service: String,
    #[serde(flatten)]
    of: Of,
}

#[derive(Deserialize)]
struct Of {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    param: f64,
    #[serde(default)]
    operation_strategies: Vec<OfOperation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfOperation {
    operation: String,
    #[serde(rename = "type")]
    kind: String,
    param: f64,
}

impl Strategies {
    /// # Errors
    /// Says which strategy cannot be meant, and why.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err("not a file of strategies: it is an object with default_strategy and service_strategies".to_owned());
        }
        let file: File = serde_json::from_slice(json).map_err(|error| format!("not a file of strategies: {error}"))?;
        let (default, everywhere) = match &file.default_strategy {
            Some(of) => (of.strategy("default_strategy")?, of.operations("default_strategy")?),
            None => (probabilistic(RATE_DEFAULT), Vec::new()),
        };
        let mut services = BTreeMap::new();
        for OfService { service, of } in &file.service_strategies {
            if service.is_empty() {
                return Err("a strategy has no service".to_owned());
            }
            let own = match &of.kind {
                Some(_) => of.strategy(service)?,
                // Only operations: the rest is as for everybody.
                None => default.clone(),
            };
            let mut operations = of.operations(service)?;
            let said: Vec<String> = operations.iter().map(|own| own.operation.clone()).collect();
            operations.extend(everywhere.iter().filter(|other| !said.contains(&other.operation)).cloned());
            if services.insert(service.clone(), own.with(operations)).is_some() {
                return Err(format!("the service {service:?} is there twice"));
            }
        }
        Ok(Self { default: default.with(everywhere), services })
    }

    pub(super) fn of(&self, service: &str) -> Strategy {
        self.services.get(service).unwrap_or(&self.default).clone()
    }
}

impl Of {
    fn strategy(&self, whose: &str) -> Result<Strategy, String> {
        match self.kind.as_deref() {
            Some("probabilistic") => Ok(probabilistic(rate(self.param, whose)?)),
            Some("ratelimiting") if (0.0..=f64::from(i32::MAX)).contains(&self.param) => Ok(Strategy {
                strategy_type: RATE_LIMITING,
                rate_limiting: Some(RateLimiting { max_traces_per_second: self.param as i32 }),
                ..Strategy::default()
            }),
            Some("ratelimiting") => Err(format!("{whose}: param must be a number of traces per second, not {}", self.param)),
            Some(other) => Err(format!("{whose}: the type {other:?} is none of probabilistic and ratelimiting")),
            None => Err(format!("{whose}: has no type; write probabilistic or ratelimiting")),
        }
    }

    fn operations(&self, whose: &str) -> Result<Vec<Operation>, String> {
        let operation = |OfOperation { operation, kind, param }: &OfOperation| match kind.as_str() {
            "probabilistic" => {
                let probabilistic = Some(Probabilistic { sampling_rate: rate(*param, whose)? });
                Ok(Operation { operation: operation.clone(), probabilistic })
            }
            other => Err(format!("{whose}: the operation {operation:?} has the type {other:?}; operations can be probabilistic only")),
        };
        self.operation_strategies.iter().map(operation).collect()
    }
}

impl Strategy {
    /// With strategies of single operations, the strategy of the service holds for all others.
    fn with(self, operations: Vec<Operation>) -> Self {
        if operations.is_empty() {
            return self;
        }
        let default_probability = self.probabilistic.map_or(RATE_DEFAULT, |probabilistic| probabilistic.sampling_rate);
        let operations = Operations { default_probability, strategies: operations, ..Operations::default() };
        Self { operations: Some(operations), ..self }
    }
}

fn probabilistic(sampling_rate: f64) -> Strategy {
    Strategy { strategy_type: PROBABILISTIC, probabilistic: Some(Probabilistic { sampling_rate }), ..Strategy::default() }
}

fn rate(param: f64, whose: &str) -> Result<f64, String> {
    match (0.0..=1.0).contains(&param) {
        true => Ok(param),
        false => Err(format!("{whose}: param must be a share from 0 to 1, not {param}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_their_own_or_the_default() {
        let file = br#"{
            "service_strategies": [
                { "service": "shop", "type": "probabilistic", "param": 0.8, "operation_strategies": [
                    { "operation": "pay", "type": "probabilistic", "param": 1 } ] },
                { "service": "mail", "type": "ratelimiting", "param": 5 },
                { "service": "cart", "operation_strategies": [ { "operation": "add", "type": "probabilistic", "param": 0.1 } ] } ],
            "default_strategy": { "type": "probabilistic", "param": 0.5, "operation_strategies": [
                { "operation": "/health", "type": "probabilistic", "param": 0 } ] } }"#;
        let strategies = Strategies::parse(file).unwrap();
        let operations = |service: &str| -> Vec<(String, f64)> {
            let operations = strategies.of(service).operations.unwrap_or_default().strategies;
            operations.into_iter().map(|of| (of.operation, of.probabilistic.unwrap().sampling_rate)).collect()
        };
        assert_eq!(operations("shop"), [("pay".to_owned(), 1.0), ("/health".to_owned(), 0.0)]);
        assert_eq!(operations("cart"), [("add".to_owned(), 0.1), ("/health".to_owned(), 0.0)]);
        assert_eq!(strategies.of("cart").operations.unwrap().default_probability, 0.5);
        assert_eq!(strategies.of("mail").rate_limiting.unwrap().max_traces_per_second, 5);
        assert_eq!(
            strategies.of("anybody").json().to_string(),
            r#"{"operationSampling":{"defaultLowerBoundTracesPerSecond":0.0,"defaultSamplingProbability":0.5,"defaultUpperBoundTracesPerSecond":0.0,"perOperationStrategies":[{"operation":"/health","probabilisticSampling":{"samplingRate":0.0}}]},"probabilisticSampling":{"samplingRate":0.5},"strategyType":"PROBABILISTIC"}"#
        );
        assert_eq!(Strategies::parse(b"{}").unwrap().of("x"), probabilistic(0.001));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (of, says) in [
            (r#"{ "type": "probabilistic", "param": 2 }"#, "0 to 1"),
            (r#"{ "type": "often", "param": 1 }"#, "none of"),
            (r#"{ "type": "ratelimiting", "param": -1 }"#, "per second"),
            (r#"{ "type": "probabilistic", "param": 1, "operation_strategies": [{ "operation": "o", "type": "ratelimiting", "param": 1 }] }"#, "only"),
        ] {
            let message = Strategies::parse(format!(r#"{{ "default_strategy": {of} }}"#).as_bytes()).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
        let twice = r#"{ "service_strategies": [{ "service": "a", "type": "probabilistic" }, { "service": "a", "type": "probabilistic" }] }"#;
        assert!(Strategies::parse(twice.as_bytes()).unwrap_err().contains("twice"));
        assert!(Strategies::parse(b"[]").is_err());
    }
}
