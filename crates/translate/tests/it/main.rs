//! Both formats to OTLP and back, examples of each wire format, and bytes that are none.
// `cfg(fuzzing)` is set by the fuzzer.
#![allow(unexpected_cfgs)]

mod damage;
mod fuzz;
mod jaeger_formats;
mod jaeger_otlp;
mod old_forms;
mod otlp;
mod thrift_writer;
mod zipkin_formats;
mod zipkin_otlp;

#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How many bytes this thread has allocated so far, freed or not. Under a fuzzer, which watches memory itself, none.
fn allocated() -> u64 {
    #[cfg(fuzzing)]
    return 0;
    #[cfg(not(fuzzing))]
    tikv_jemalloc_ctl::thread::allocatedp::read().expect("the allocator counts").get()
}
