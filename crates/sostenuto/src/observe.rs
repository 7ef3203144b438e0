//! What the components count, as metrics of the program. Each scrape reads the numbers; nothing is kept here.

use std::{collections::BTreeMap, sync::Arc};

use api::Metrics;
use compactor::{Compactor, CompactorStats};
use distributor::{Distributor, TenantCounts};
use listen::Tls;
use ingester::{Ingester, IngesterStats};
use query::Engine;
use storage::{Cached, Counter, Storage, StorageMetrics};
use tracer::Tracer;

use crate::{gates::Gates, limits::Limits, receive::Datagrams, redaction::Redaction};

pub fn distributor(metrics: &Metrics, distributor: &Distributor) {
    let by_tenant = |read: fn(&TenantCounts) -> u64| {
        let distributor = distributor.clone();
        move || distributor.counts().iter().map(|counts| (counts.tenant.clone(), read(counts) as f64)).collect()
    };
    metrics.counters(
        "sostenuto_distributor_requests",
        "Requests that came in",
        "tenant",
        by_tenant(|counts| counts.requests),
    );
    metrics.counters(
        "sostenuto_distributor_received_bytes",
        "Bytes of requests, as protobuf and uncompressed",
        "tenant",
        by_tenant(|counts| counts.bytes_received),
    );
    metrics.counters(
        "sostenuto_distributor_spans_received",
        "Spans that came in, stored or discarded",
        "tenant",
        by_tenant(|counts| counts.spans_received),
    );
    metrics.counters(
        "sostenuto_distributor_attributes_truncated",
        "Keys and values of attributes, names, messages and trace states that were cut at the size limit",
        "tenant",
        by_tenant(|counts| counts.attributes_truncated),
    );
    let discarding = distributor.clone();
    metrics.counters(
        "sostenuto_distributor_spans_discarded",
        "Spans that were not stored, by reason, over all tenants",
        "reason",
        move || {
            let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
            for (reason, spans) in discarding.counts().iter().flat_map(|counts| &counts.spans_discarded) {
                *reasons.entry(reason).or_default() += spans;
            }
            reasons.into_iter().map(|(reason, spans)| (reason.to_owned(), spans as f64)).collect()
        },
    );
}

pub fn own_spans(metrics: &Metrics, tracer: &Tracer) {
    let counts = tracer.counts();
    let all = counts.clone();
    metrics.counter("sostenuto_self_spans_recorded", "Spans of this program's own", move || all.recorded() as f64);
    metrics.counters("sostenuto_self_spans", "Spans of this program's own, by what became of them", "outcome", move || {
        counts.outcomes().into_iter().map(|(outcome, spans)| (outcome.to_owned(), spans as f64)).collect()
    });
}

pub fn ingester(metrics: &Metrics, ingester: &Ingester) {
    let read = |read: fn(IngesterStats) -> f64| {
        let ingester = ingester.clone();
        move || read(ingester.stats())
    };
    let memory = ingester.clone();
    metrics.gauges(
        "sostenuto_ingester_memory_bytes",
        "Memory of spans on their way into blocks",
        "of",
        move || {
            let used = memory.memory().in_use();
            let parts = [("requests", used.requests), ("live", used.live), ("blocks", used.flushing)];
            parts.map(|(part, bytes)| (part.to_owned(), bytes as f64)).into()
        },
    );
    metrics.gauge(
        "sostenuto_ingester_memory_max_bytes",
        "What it may take together, by ingester.max_memory",
        read(|s| s.memory.bytes_max as f64),
    );
    metrics.counter(
        "sostenuto_ingester_memory_refusals",
        "How often a request was refused because that memory was used up",
        read(|s| s.memory.refusals as f64),
    );
    metrics.gauge(
        "sostenuto_ingester_cuts_waiting",
        "Stretches of live spans that wait for the object store",
        read(|s| s.cuts_waiting as f64),
    );
    metrics.counter("sostenuto_ingester_spans_accepted", "Spans taken in", read(|s| s.accepted_spans as f64));
    metrics.counter("sostenuto_ingester_spans_rejected", "Spans that are not valid", read(|s| s.rejected_spans as f64));
    metrics.counter("sostenuto_ingester_spans_flushed", "Spans written into blocks", read(|s| s.flushed_spans as f64));
    metrics.counter("sostenuto_ingester_blocks_flushed", "Blocks written", read(|s| s.blocks as f64));
    metrics.counter("sostenuto_ingester_flush_failures", "Flushes that failed", read(|s| s.flush_failures as f64));
    metrics.counter(
        "sostenuto_ingester_spans_set_aside",
        "Spans of which no block could be made; their log segments are in the quarantine",
        read(|s| s.spans_set_aside as f64),
    );
}

pub fn engine(metrics: &Metrics, engine: &Engine) {
    let engine = engine.clone();
    metrics.counters(
        "sostenuto_query_blocks_left_out",
        "How often a block was found to be unreadable and was left out of an answer, by reason",
        "reason",
        move || engine.blocks_broken().into_iter().map(|(reason, count)| (reason.to_owned(), count as f64)).collect(),
    );
}

pub fn compactor(metrics: &Metrics, compactor: &Compactor) {
    let read = |read: fn(CompactorStats) -> u64| {
        let compactor = compactor.clone();
        move || read(compactor.stats()) as f64
    };
    metrics.counter("sostenuto_compactor_compactions", "Commits that merged blocks", read(|s| s.compactions));
    metrics.counter("sostenuto_compactor_indexes", "Indexes of trace ids that were made", read(|s| s.indexes));
    metrics.counter("sostenuto_compactor_blocks_merged", "Blocks that were merged into others", read(|s| s.blocks_in));
    metrics.counter("sostenuto_compactor_read_bytes", "Bytes of merged blocks", read(|s| s.bytes_in));
    metrics.counter("sostenuto_compactor_written_bytes", "Bytes of blocks made by merging", read(|s| s.bytes_out));
    metrics.counter("sostenuto_compactor_spans", "Spans written by merging", read(|s| s.spans));
    metrics.counter(
        "sostenuto_compactor_spans_redelivered",
        "Spans of which a copy was dropped: they had been delivered twice",
        read(|s| s.redelivered),
    );
    metrics.counter("sostenuto_compactor_failures", "Merges that failed, to be tried again", read(|s| s.failures));
    metrics.counter(
        "sostenuto_compactor_lost",
        "Merges whose blocks another compactor replaced first",
        read(|s| s.lost),
    );
    metrics.counter(
        "sostenuto_compactor_claimed_elsewhere",
        "Merges that were left to another compactor",
        read(|s| s.claimed_elsewhere),
    );
    metrics.counter("sostenuto_retention_commits", "Commits that deleted what is no longer kept", read(|s| s.expirations));
    metrics.counter("sostenuto_retention_spans_deleted", "Spans that they deleted", read(|s| s.expired_spans));
    metrics.counter("sostenuto_retention_deleted_bytes", "Bytes of blocks that they freed", read(|s| s.expired_bytes));
    metrics.gauge(
        "sostenuto_compactor_blocks_set_aside",
        "Blocks that are left alone because merges with them failed twice",
        read(|s| s.aside),
    );
    metrics.gauge("sostenuto_compactor_blocks_due", "Blocks that wait to be merged", read(|s| s.due));
}

pub fn datagrams(metrics: &Metrics, datagrams: &Datagrams) {
    let Datagrams { compact, binary } = datagrams.clone();
    let counts = [("compact", compact), ("binary", binary)];
    let received = counts.clone();
    metrics.counters(
        "sostenuto_receiver_datagrams_received",
        "Datagrams of Jaeger's clients, by protocol",
        "protocol",
        move || received.iter().map(|(protocol, counts)| ((*protocol).to_owned(), counts.received() as f64)).collect(),
    );
    metrics.counters(
        "sostenuto_receiver_datagrams_dropped",
        "Datagrams whose spans were not stored, by reason; what the system dropped before is not in it",
        "reason",
        move || {
            let [(_, compact), (_, binary)] = &counts;
            let dropped = compact.dropped().into_iter().zip(binary.dropped());
            dropped.map(|((reason, compact), (_, binary))| (reason.to_owned(), (compact + binary) as f64)).collect()
        },
    );
}

/// The file of overrides.
pub fn limits(metrics: &Metrics, limits: &Limits) {
    if limits.store().is_some() {
        let limits = limits.clone();
        metrics.counter(
            "sostenuto_overrides_document_failures",
            "How often tenants' own overrides could not be read",
            move || limits.document_failures() as f64,
        );
    }
    if limits.counts().is_none() {
        return;
    }
    let read = |read: fn((u64, u64)) -> u64| {
        let limits = limits.clone();
        move || limits.counts().map_or(0.0, |counts| read(counts) as f64)
    };
    metrics.counter("sostenuto_overrides_reloads", "How often changed overrides came in force", read(|counts| counts.0));
    metrics.counter(
        "sostenuto_overrides_reload_failures",
        "How often changed overrides could not be used",
        read(|counts| counts.1),
    );
}

pub fn redaction(metrics: &Metrics, redaction: &Redaction) {
    let (counts, failures) = (redaction.counts.clone(), redaction.clone());
    metrics.counters(
        "sostenuto_redacted_values",
        "Values that were taken out of spans or changed before they were stored, by rule",
        "rule",
        move || counts.all().into_iter().map(|(rule, count)| (rule, count as f64)).collect(),
    );
    metrics.counter(
        "sostenuto_redaction_reload_failures",
        "How often changed redaction rules could not be used",
        move || failures.reload_failures() as f64,
    );
}

/// What stands before the ports.
pub fn gates(metrics: &Metrics, gates: &Gates) {
    fn named(counts: &[(&'static str, u64)]) -> Vec<(String, f64)> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count as f64)).collect()
    }
    if let Some(door) = gates.door.clone() {
        let counted = door.clone();
        metrics.counters(
            "sostenuto_door_requests",
            "Requests on all ports, by what became of them at the door",
            "outcome",
            move || named(&counted.counts()),
        );
        metrics.counter(
            "sostenuto_door_reload_failures",
            "How often changed keys could not be used",
            move || door.reload_failures() as f64,
        );
    }
    if let Some(audit) = gates.audit.clone() {
        metrics.counters(
            "sostenuto_audit_lines",
            "Lines of the audit log, written or dropped",
            "outcome",
            move || named(&audit.counts()),
        );
    }
    let certificates = gates.certificates();
    if !certificates.is_empty() {
        let sum = |read: fn(&Tls) -> u64| {
            let certificates = certificates.clone();
            move || certificates.iter().map(read).sum::<u64>() as f64
        };
        metrics.counter("sostenuto_tls_reloads", "How often changed certificates came in force", sum(Tls::reloads));
        metrics.counter(
            "sostenuto_tls_reload_failures",
            "How often changed certificates could not be used",
            sum(Tls::failures),
        );
    }
}

/// Counters of one metric, each with its value of the label.
fn read_by<const N: usize>(
    counts: Arc<StorageMetrics>,
    counters: [(&'static str, fn(&StorageMetrics) -> &Counter); N],
) -> impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static {
    move || counters.iter().map(|(value, counter)| ((*value).to_owned(), counter(&counts).get() as f64)).collect()
}

pub fn storage(metrics: &Metrics, storage: &Storage) {
    let read = |counter: fn(&StorageMetrics) -> &Counter| {
        let counts = Arc::clone(storage.metrics());
        move || counter(&counts).get() as f64
    };
    metrics.counters(
        "sostenuto_storage_pieces_read",
        "Pieces of 1 MiB of data files, by where they were found",
        "from",
        read_by(
            Arc::clone(storage.metrics()),
            [("memory", |c| &c.chunk_hits_memory), ("disk", |c| &c.chunk_hits_disk), ("store", |c| &c.chunk_misses)],
        ),
    );
    metrics.counter("sostenuto_storage_fetches", "Requests for pieces to the store", read(|c| &c.fetches));
    metrics.counter("sostenuto_storage_fetched_bytes", "Bytes that they brought", read(|c| &c.fetched_bytes));
    metrics.counter(
        "sostenuto_storage_checksum_failures",
        "Pieces whose bytes did not have their checksum",
        read(|c| &c.chunk_checksum_failures),
    );
    metrics.counter(
        "sostenuto_storage_sidecars_rebuilt",
        "Sidecars that were lost or damaged and were made again",
        read(|c| &c.sidecars_rebuilt),
    );
    metrics.counter("sostenuto_storage_blocks_written", "Blocks stored", read(|c| &c.blocks_written));
    metrics.counter(
        "sostenuto_storage_files_swept",
        "Files of blocks that no table had any more, deleted",
        read(|c| &c.files_swept),
    );
    metrics.counter("sostenuto_storage_swept_bytes", "Bytes of those files", read(|c| &c.files_swept_bytes));
    metrics.counter(
        "sostenuto_storage_written_bytes",
        "Bytes of blocks and sidecars stored",
        read(|c| &c.blocks_written_bytes),
    );
    metrics.counter(
        "sostenuto_storage_log_files_cleaned",
        "Commits and checkpoints of tables that a later checkpoint had summed up long before, deleted",
        read(|c| &c.log_files_cleaned),
    );
    metrics.counter(
        "sostenuto_storage_claims_cleaned",
        "Claims of compactors that did not come back, deleted",
        read(|c| &c.claims_cleaned),
    );
    metrics.counter("sostenuto_storage_trace_index_reads", "Ranges of indexes of traces that were read", read(|c| &c.trace_index_reads));
    metrics.counter(
        "sostenuto_storage_trace_index_failures",
        "Indexes of traces that could not be read; their blocks were asked one by one",
        read(|c| &c.trace_index_failures),
    );
    metrics.counter("sostenuto_storage_trace_indexes_written", "Indexes of traces stored", read(|c| &c.trace_indexes_written));
    metrics.counter(
        "sostenuto_storage_trace_indexes_written_bytes",
        "Bytes of those indexes",
        read(|c| &c.trace_indexes_written_bytes),
    );
    metrics.counter(
        "sostenuto_storage_pieces_evicted",
        "Pieces that had to leave memory to make room",
        read(|c| &c.chunk_evictions),
    );
    let cached = |read: fn(Cached) -> u64| {
        let storage = storage.clone();
        move || read(storage.cached()) as f64
    };
    metrics.gauge("sostenuto_storage_pieces_bytes", "Memory of pieces of data files", cached(|c| c.memory_bytes));
    metrics.gauge("sostenuto_storage_pieces_max_bytes", "What they may take", cached(|c| c.memory_bytes_max));
    metrics.gauge("sostenuto_storage_sidecars_bytes", "Memory of parsed sidecars", cached(|c| c.sidecars_bytes));
    metrics.counter(
        "sostenuto_storage_cache_disk_written_bytes",
        "Bytes written to the disk cache",
        cached(|c| c.disk_written_bytes),
    );
    metrics.counter("sostenuto_storage_cache_disk_read_bytes", "Bytes read from it", cached(|c| c.disk_read_bytes));
    metrics.counters(
        "sostenuto_storage_requests",
        "Requests to the object store, by kind; repeats after an error are not counted",
        "kind",
        read_by(
            Arc::clone(storage.metrics()),
            [
                ("put", |c| &c.puts),
                ("get", |c| &c.gets),
                ("head", |c| &c.heads),
                ("list", |c| &c.lists),
                ("delete", |c| &c.deletes),
            ],
        ),
    );
    metrics.counter("sostenuto_storage_sent_bytes", "Bytes sent to the object store", read(|c| &c.sent_bytes));
    metrics.counter("sostenuto_storage_received_bytes", "Bytes that it answered with", read(|c| &c.received_bytes));
    metrics.counter(
        "sostenuto_storage_hedged_reads",
        "Reads that were sent a second time because the answer took long",
        read(|c| &c.hedges),
    );
    metrics.counter(
        "sostenuto_storage_hedged_reads_won",
        "Second reads that were answered first",
        read(|c| &c.hedges_won),
    );
}
