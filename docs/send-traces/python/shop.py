"""A shop of two services that call each other over HTTP, and a shipment that follows later.

Each says what it does as spans to an OTLP endpoint, and as JSON lines with the trace id.
"""

import json
import os
import threading
import urllib.error
import urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

# The exporters read OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS and _TIMEOUT themselves.
if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


def provider_of(service, version):
    """A process has one provider as a rule; this one plays two services."""
    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": "shop",
            "service.version": version,
            "deployment.environment.name": "example",
            "host.cpu.count": 4,
        }
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


checkout = provider_of("checkout", "2.3.1")
payment = provider_of("payment", "0.9.0")


def log(level, service, message):
    context = trace.get_current_span().get_span_context()
    line = {
        "time": datetime.now(timezone.utc).isoformat(),
        "level": level,
        "service": service,
        "message": message,
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }
    print(json.dumps(line), flush=True)


class Payment(BaseHTTPRequestHandler):
    """The payment service: an HTTP server that refuses the card."""

    tracer = payment.get_tracer("shop/payment", "1.0.0")

    def do_POST(self):
        caller = propagate.extract(self.headers)
        attributes = {
            "http.request.method": self.command,
            "url.path": self.path,
            "payment.amount": 129.95,
            "payment.retry": False,
        }
        with self.tracer.start_as_current_span(
            "POST /charge", caller, SpanKind.SERVER, attributes
        ) as span:
            try:
                raise ValueError('card "4711" is over its limit')
            except ValueError as error:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                span.set_attribute("http.response.status_code", 402)
                log("error", "payment", str(error))
        # The caller goes on only when the span has ended.
        self.send_response(402)
        self.end_headers()

    def log_message(self, *_):
        pass


def charge(url):
    headers = {}
    propagate.inject(headers)
    request = urllib.request.Request(url, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main():
    server = HTTPServer(("127.0.0.1", 0), Payment)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    # The checkout service: an order of two items, paid in vain, then put aside for the warehouse.
    tracer = checkout.get_tracer("shop/checkout", "1.4.2")
    with tracer.start_as_current_span("POST /checkout", kind=SpanKind.SERVER) as span:
        span.set_attributes(
            {
                "http.request.method": "POST",
                "http.response.status_code": 202,
                "customer.loyal": True,
                "order.weight_kg": 1.25,
                "order.items": ["teapot", "cup, small"],
                "order.quantities": [1, 6],
                "customer.greeting": 'Grüße, 茶 & "tea"',
            }
        )
        span.add_event("basket.read", {"basket.size": 2, "basket.cached": True})

        url = f"http://127.0.0.1:{server.server_port}/charge"
        attributes = {"peer.service": "payment", "url.full": url}
        with tracer.start_as_current_span("POST", kind=SpanKind.CLIENT, attributes=attributes) as client:
            status = charge(url)
            client.set_attribute("http.response.status_code", status)
            client.set_status(Status(StatusCode.ERROR, f"payment answered {status}"))

        attributes = {"messaging.system": "kafka", "messaging.destination.name": "orders"}
        with tracer.start_as_current_span("send orders", kind=SpanKind.PRODUCER, attributes=attributes) as producer:
            order = producer.get_span_context()
        span.set_status(Status(StatusCode.OK))
        log("info", "checkout", "order accepted without payment")
    server.shutdown()

    # The shipment has a trace of its own, and a link to the message that caused it.
    links = [Link(order, {"messaging.batch": 1})]
    with tracer.start_as_current_span("process orders", kind=SpanKind.CONSUMER, links=links):
        log("info", "checkout", "order packed")

    # Sends what is waiting.
    checkout.shutdown()
    payment.shutdown()


main()
