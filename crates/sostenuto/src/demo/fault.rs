//! What goes wrong in the shop, and how often.

use super::{
    operations::Operation,
    shop::{BAD_RELEASE, Language},
    trace::Recorder,
};

/// Why an operation failed, in the words of each protocol.
#[derive(Clone)]
pub struct Failure {
    /// `error.type`.
    pub kind: &'static str,
    pub exception: &'static str,
    pub message: String,
    pub http: i64,
    pub grpc: i64,
    /// How long it takes to fail.
    pub micros: u64,
}

impl Failure {
    /// What a caller sees that has no answer without this one.
    pub fn passed_on(mut self) -> Self {
        if self.http >= 500 && self.http != 504 {
            self.http = 502;
        }
        self
    }
}

/// The bad release fails a third of its calls; recommendations sometimes run out of time; some log in wrongly.
pub fn of_operation(trace: &mut Recorder<'_>, operation: &Operation, instance: usize) -> Option<Failure> {
    let version = trace.shop.instances[instance].version;
    if (operation.service, version) == BAD_RELEASE && trace.chance(0.35) {
        return Some(Failure {
            kind: "java.lang.NullPointerException",
            exception: "java.lang.NullPointerException",
            message: "Cannot invoke \"PriceRule.discount()\" because \"rule\" is null".to_owned(),
            http: 500,
            grpc: 13,
            micros: 900,
        });
    }
    if operation.id == "recommend" && trace.chance(0.02) {
        return Some(Failure {
            kind: "DEADLINE_EXCEEDED",
            exception: "TimeoutError",
            message: "model server gave no answer within 800 ms".to_owned(),
            http: 504,
            grpc: 4,
            micros: 800_000,
        });
    }
    if operation.id == "gateway login" && trace.chance(0.08) {
        return Some(Failure {
            kind: "401",
            exception: "InvalidCredentials",
            message: "wrong password".to_owned(),
            http: 401,
            grpc: 16,
            micros: 45_000,
        });
    }
    None
}

/// Two reservations of the same stock sometimes meet.
pub fn of_statement(trace: &mut Recorder<'_>, verb: &str, table: &str) -> Option<Failure> {
    ((verb, table) == ("UPDATE", "stock") && trace.chance(0.03)).then(|| Failure {
        kind: "40P01",
        exception: "org.postgresql.util.PSQLException",
        message: "ERROR: deadlock detected".to_owned(),
        http: 500,
        grpc: 10,
        micros: 1_000_000,
    })
}

/// Extra nanoseconds of a statement that misses its index.
pub fn slow_statement(trace: &mut Recorder<'_>, table: &str) -> u64 {
    let share = if table == "prices" { 0.01 } else { 0.003 };
    if trace.chance(share) { trace.around(700_000) } else { 0 }
}

/// Extra nanoseconds of a search that meets a shard that is still being loaded.
pub fn cold_shard(trace: &mut Recorder<'_>) -> u64 {
    if trace.chance(0.04) { trace.around(1_600_000) } else { 0 }
}

/// The payment provider times out at times, and declines cards.
pub fn of_provider(trace: &mut Recorder<'_>) -> Option<Failure> {
    if trace.chance(0.07) {
        return Some(Failure {
            kind: "java.net.http.HttpTimeoutException",
            exception: "java.net.http.HttpTimeoutException",
            message: "request timed out".to_owned(),
            http: 504,
            grpc: 14,
            micros: 1_000_000,
        });
    }
    trace.chance(0.03).then(|| Failure {
        kind: "card_declined",
        exception: "com.shop.payment.CardDeclinedException",
        message: "card declined: insufficient funds".to_owned(),
        http: 402,
        grpc: 9,
        micros: 180_000,
    })
}

/// A stack trace as the language prints it.
pub fn stacktrace(language: Language, service: &str, failure: &Failure) -> String {
    let head = format!("{}: {}", failure.exception, failure.message);
    match language {
        Language::Java => format!(
            "{head}\n\tat com.shop.{service}.Handler.handle(Handler.java:142)\n\tat com.shop.{service}.Server.dispatch(Server.java:88)\n\tat java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1144)\n\tat java.base/java.lang.Thread.run(Thread.java:1583)"
        ),
        Language::Python => format!(
            "Traceback (most recent call last):\n  File \"/app/{service}/server.py\", line 97, in handle\n    return self.model.predict(request)\n  File \"/app/{service}/model.py\", line 41, in predict\n    raise {}(message)\n{head}",
            failure.exception
        ),
        Language::NodeJs => format!(
            "{head}\n    at handle (/app/{service}/server.js:57:11)\n    at process.processTicksAndRejections (node:internal/process/task_queues:105:5)"
        ),
        Language::DotNet => {
            format!("{head}\n   at Shop.{service}.Handler.Handle(Request request) in /src/Handler.cs:line 64")
        }
        Language::Go | Language::Rust => format!("{head}\n\t{service}/handler:118\n\t{service}/server:52"),
    }
}
