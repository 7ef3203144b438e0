//! The messages of `jaeger.api_v2.SamplingManager`, and their JSON as Jaeger's servers write it: zeros are there, what is
//! absent is not.

use serde_json::{Value, json};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Parameters {
    #[prost(string, tag = "1")]
    pub service_name: String,
}

/// `SamplingStrategyResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Strategy {
    /// 0 is probabilistic, 1 rate limiting.
    #[prost(int32, tag = "1")]
    pub strategy_type: i32,
    #[prost(message, optional, tag = "2")]
    pub probabilistic: Option<Probabilistic>,
    #[prost(message, optional, tag = "3")]
    pub rate_limiting: Option<RateLimiting>,
    #[prost(message, optional, tag = "4")]
    pub operations: Option<Operations>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Probabilistic {
    /// 0 to 1.
    #[prost(double, tag = "1")]
    pub sampling_rate: f64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RateLimiting {
    #[prost(int32, tag = "1")]
    pub max_traces_per_second: i32,
}

/// `PerOperationSamplingStrategies`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Operations {
    #[prost(double, tag = "1")]
    pub default_probability: f64,
    #[prost(double, tag = "2")]
    pub default_lower_bound: f64,
    #[prost(message, repeated, tag = "3")]
    pub strategies: Vec<Operation>,
    #[prost(double, tag = "4")]
    pub default_upper_bound: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Operation {
    #[prost(string, tag = "1")]
    pub operation: String,
    #[prost(message, optional, tag = "2")]
    pub probabilistic: Option<Probabilistic>,
}

impl Strategy {
    pub(super) fn json(&self) -> Value {
        let kind = if self.strategy_type == 0 { "PROBABILISTIC" } else { "RATE_LIMITING" };
        let mut json = json!({ "strategyType": kind });
        if let Some(Probabilistic { sampling_rate }) = self.probabilistic {
            json["probabilisticSampling"] = json!({ "samplingRate": sampling_rate });
        }
        if let Some(RateLimiting { max_traces_per_second }) = self.rate_limiting {
            json["rateLimitingSampling"] = json!({ "maxTracesPerSecond": max_traces_per_second });
        }
        if let Some(Operations { default_probability, default_lower_bound, strategies, default_upper_bound }) = &self.operations {
            let strategy = |Operation { operation, probabilistic }: &Operation| {
                let rate = probabilistic.map_or(0.0, |probabilistic| probabilistic.sampling_rate);
                json!({ "operation": operation, "probabilisticSampling": { "samplingRate": rate } })
            };
            json["operationSampling"] = json!({
                "defaultSamplingProbability": default_probability,
                "defaultLowerBoundTracesPerSecond": default_lower_bound,
                "perOperationStrategies": strategies.iter().map(strategy).collect::<Vec<_>>(),
                "defaultUpperBoundTracesPerSecond": default_upper_bound,
            });
        }
        json
    }
}
