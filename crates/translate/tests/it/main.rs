//! Both formats to OTLP and back, examples of each wire format, and bytes that are none.

mod damage;
mod jaeger_formats;
mod jaeger_otlp;
mod otlp;
mod thrift_writer;
mod zipkin_formats;
mod zipkin_otlp;
