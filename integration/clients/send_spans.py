"""Makes one trace with OpenTelemetry's SDK, sends it with the exporter that is named, and prints it as JSON.

Usage: send_spans.py EXPORTER ENDPOINT, where EXPORTER is otlp-grpc, otlp-http, zipkin-v1, zipkin-v2, jaeger-thrift or
jaeger-agent, and ENDPOINT is a URL, or host:port for the agent.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags


def exporter(name, endpoint):
    if name == "otlp-grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=endpoint, insecure=True)
    if name == "otlp-http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    if name in ("zipkin-v1", "zipkin-v2"):
        from opentelemetry.exporter.zipkin.encoder import Protocol
        from opentelemetry.exporter.zipkin.json import ZipkinExporter

        version = name.removeprefix("zipkin-")
        protocol = Protocol.V1 if version == "v1" else Protocol.V2
        return ZipkinExporter(
            version=protocol,
            endpoint=f"{endpoint}/api/{version}/spans",
            local_node_ipv4="192.168.0.1",
            local_node_port=31313,
            max_tag_value_length=1000,
        )
    from opentelemetry.exporter.jaeger.thrift import JaegerExporter

    if name == "jaeger-thrift":
        return JaegerExporter(collector_endpoint=f"{endpoint}/api/traces?format=jaeger.thrift")
    host, port = endpoint.rsplit(":", 1)
    return JaegerExporter(agent_host_name=host, agent_port=int(port))


class Checked(SpanExporter):
    """Collects the spans, and sends them as one batch."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


def make(provider):
    tracer = provider.get_tracer("shop-tracing", "1.2.3")
    elsewhere = SpanContext(0x1234567890ABCDEF1234567890ABCDEF, 0xFEDCBA0987654321, True, TraceFlags(1))
    links = [Link(elsewhere)]
    with tracer.start_as_current_span("GET /cart", kind=SpanKind.SERVER, links=links) as server:
        server.set_attribute("http.request.method", "GET")
        server.set_attribute("http.response.status_code", 500)
        server.set_attribute("ratio", 0.25)
        server.set_attribute("cached", False)
        server.set_attribute("text", 'quotes " and \\ and ünïcode 猫')
        server.add_event("retry", {"attempt": 2, "reason": "timeout"})
        server.add_event("bare")
        with tracer.start_as_current_span("SELECT cart", kind=SpanKind.CLIENT) as client:
            client.set_attribute("peer.service", "cart-db")
            client.set_status(Status(StatusCode.ERROR, "connection reset"))
        with tracer.start_as_current_span("render", kind=SpanKind.INTERNAL) as internal:
            internal.set_status(Status(StatusCode.OK))
        with tracer.start_as_current_span("publish", kind=SpanKind.PRODUCER):
            with tracer.start_as_current_span("consume", kind=SpanKind.CONSUMER):
                pass


def shown(span):
    context = span.get_span_context()
    hexadecimal = lambda number, digits: format(number, f"0{digits}x")
    return {
        "traceId": hexadecimal(context.trace_id, 32),
        "spanId": hexadecimal(context.span_id, 16),
        "parentSpanId": hexadecimal(span.parent.span_id, 16) if span.parent else "",
        "name": span.name,
        "kind": span.kind.name,
        "start": span.start_time,
        "end": span.end_time,
        "status": span.status.status_code.name,
        "message": span.status.description or "",
        "attributes": dict(span.attributes),
        "events": [
            {"name": event.name, "time": event.timestamp, "attributes": dict(event.attributes)} for event in span.events
        ],
        "links": [
            {"traceId": hexadecimal(link.context.trace_id, 32), "spanId": hexadecimal(link.context.span_id, 16)}
            for link in span.links
        ],
        "resource": dict(span.resource.attributes),
        "scope": [span.instrumentation_scope.name, span.instrumentation_scope.version],
    }


def main():
    name, endpoint = sys.argv[1:3]
    collected = Checked()
    resource = Resource.create({"service.name": "shop", "deployment.environment.name": "test", "service.instance.number": 7})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(collected))
    # The exporter for Jaeger asks the global provider for the name of the service.
    trace.set_tracer_provider(provider)
    make(provider)
    sender = exporter(name, endpoint)
    outcome = sender.export(tuple(collected.spans))
    if outcome is not SpanExportResult.SUCCESS:
        sys.exit(f"{name}: the exporter says {outcome}")
    sender.shutdown()
    print(json.dumps([shown(span) for span in collected.spans]))


main()
