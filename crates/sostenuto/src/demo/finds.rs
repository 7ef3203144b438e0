//! What is worth looking at in the traffic: only questions that have an answer in what was sent.

use std::fmt::Write;

use super::{
    shop::{BAD_RELEASE, Shop},
    trace::Sent,
};
use crate::show::{Style, duration};

/// Trace ids and counts noticed while sending. Each is the newest of its kind.
#[derive(Default)]
pub struct Finds {
    errors: u64,
    bad_release: u64,
    slow_database: u64,
    failed_checkout: Option<String>,
    linked: Option<String>,
    /// The id of the trace with the most spans, and how many.
    largest: Option<(usize, String)>,
    /// The id of the slowest trace, and its nanoseconds.
    slowest: Option<(u64, String)>,
    services: usize,
}

impl Finds {
    pub fn notice(&mut self, trace: &[Sent], shop: &Shop) {
        let Some(root) = trace.iter().find(|sent| sent.span.parent_span_id.is_empty()) else { return };
        let id = super::attributes::hex(&root.span.trace_id);
        let failed = |sent: &Sent| sent.span.status.as_ref().is_some_and(|status| status.code == 2);
        let nanos = |sent: &Sent| sent.span.end_time_unix_nano - sent.span.start_time_unix_nano;
        let says = |sent: &Sent, key: &str| sent.span.attributes.iter().any(|attribute| attribute.key == key);
        self.services = shop.services.len();
        self.errors += trace.iter().filter(|sent| failed(sent)).count() as u64;
        let bad = |sent: &&Sent| {
            let instance = &shop.instances[sent.instance];
            failed(sent) && (shop.services[instance.service].name.as_str(), instance.version) == BAD_RELEASE
        };
        self.bad_release += trace.iter().filter(bad).count() as u64;
        let slow = |sent: &&Sent| says(sent, "db.system.name") && nanos(sent) > 500_000_000;
        self.slow_database += trace.iter().filter(slow).count() as u64;
        if failed(root) && root.span.name == "POST /checkout" {
            self.failed_checkout = Some(id.clone());
        }
        if root.span.links.len() > 1 {
            self.linked = Some(id.clone());
        }
        if self.largest.as_ref().is_none_or(|(spans, _)| trace.len() >= *spans) {
            self.largest = Some((trace.len(), id.clone()));
        }
        if self.slowest.as_ref().is_none_or(|(slowest, _)| nanos(root) >= *slowest) {
            self.slowest = Some((nanos(root), id));
        }
    }

    /// Commands to try, each with what it shows.
    pub fn advice(&self, style: Style) -> String {
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut query = |text: &str, shows: String| rows.push((format!("sostenuto query '{text}'"), shows));
        if self.errors > 0 {
            query("{ status = error }", "what failed".to_owned());
        }
        if self.bad_release > 0 {
            let (service, version) = BAD_RELEASE;
            query(
                &format!("{{ resource.service.version = \"{version}\" && status = error }}"),
                format!("a bad release of {service}"),
            );
        }
        if self.slow_database > 0 {
            query("{ span.db.system.name != nil && duration > 500ms }", "slow statements".to_owned());
        }
        if let Some(id) = &self.failed_checkout {
            rows.push((format!("sostenuto trace {id}"), "a checkout that failed".to_owned()));
        }
        if let Some((nanos, id)) = &self.slowest {
            rows.push((format!("sostenuto trace {id}"), format!("the slowest: {}", duration(*nanos))));
        }
        if let Some((spans, id)) = &self.largest {
            rows.push((format!("sostenuto trace {id}"), format!("the largest: {spans} spans")));
        }
        if let Some(id) = &self.linked {
            rows.push((
                format!("sostenuto trace {id}"),
                "orders settled together, linked to their checkouts".to_owned(),
            ));
        }
        let mut text = format!("{}\n", style.bold("Look at"));
        for (command, shows) in rows {
            let _ = writeln!(text, "  {}\n  {command}", style.dim(&format!("# {shows}")));
        }
        text
    }
}
