// A shop of two services that call each other over HTTP, and a shipment that follows later. Each says what it does as
// spans to an OTLP endpoint, and as JSON lines with the trace id.
import { createServer } from "node:http";
import { once } from "node:events";
import { context, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { OTLPTraceExporter as GrpcExporter } from "@opentelemetry/exporter-trace-otlp-grpc";
import { OTLPTraceExporter as HttpExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

// The exporters read OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS and _TIMEOUT themselves.
const newExporter = () =>
  process.env.OTEL_EXPORTER_OTLP_PROTOCOL === "grpc" ? new GrpcExporter() : new HttpExporter();

// A process has one provider as a rule; this one plays two services.
function providerOf(service, version) {
  return new NodeTracerProvider({
    resource: resourceFromAttributes({
      "service.name": service,
      "service.namespace": "shop",
      "service.version": version,
      "deployment.environment.name": "example",
      "host.cpu.count": 4,
    }),
    spanProcessors: [new BatchSpanProcessor(newExporter())],
  });
}

const checkout = providerOf("checkout", "2.3.1");
const payment = providerOf("payment", "0.9.0");
// Makes spans known to the functions that they call, and the traceparent header to `propagation`.
checkout.register({ propagator: new W3CTraceContextPropagator() });

function log(level, service, message) {
  const { traceId, spanId } = trace.getActiveSpan().spanContext();
  const time = new Date().toISOString();
  console.log(JSON.stringify({ time, level, service, message, trace_id: traceId, span_id: spanId }));
}

// The payment service: an HTTP server that refuses the card.
const payments = payment.getTracer("shop/payment", "1.0.0");
const server = createServer((request, response) => {
  const caller = propagation.extract(context.active(), request.headers);
  const attributes = {
    "http.request.method": request.method,
    "url.path": request.url,
    "payment.amount": 129.95,
    "payment.retry": false,
  };
  payments.startActiveSpan("POST /charge", { kind: SpanKind.SERVER, attributes }, caller, (span) => {
    try {
      throw new RangeError('card "4711" is over its limit');
    } catch (error) {
      span.recordException(error);
      span.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
      span.setAttribute("http.response.status_code", 402);
      log("error", "payment", error.message);
      response.writeHead(402).end();
    } finally {
      span.end();
    }
  });
});
server.listen(0, "127.0.0.1");
await once(server, "listening");

// The checkout service: an order of two items, paid in vain, then put aside for the warehouse.
const tracer = checkout.getTracer("shop/checkout", "1.4.2");
let order;
await tracer.startActiveSpan("POST /checkout", { kind: SpanKind.SERVER }, async (span) => {
  span.setAttributes({
    "http.request.method": "POST",
    "http.response.status_code": 202,
    "customer.loyal": true,
    "order.weight_kg": 1.25,
    "order.items": ["teapot", "cup, small"],
    "order.quantities": [1, 6],
    "customer.greeting": 'Grüße, 茶 & "tea"',
  });
  span.addEvent("basket.read", { "basket.size": 2, "basket.cached": true });

  const url = `http://127.0.0.1:${server.address().port}/charge`;
  const call = { kind: SpanKind.CLIENT, attributes: { "peer.service": "payment", "url.full": url } };
  await tracer.startActiveSpan("POST", call, async (client) => {
    const headers = {};
    propagation.inject(context.active(), headers);
    const answer = await fetch(url, { method: "POST", headers });
    client.setAttribute("http.response.status_code", answer.status);
    client.setStatus({ code: SpanStatusCode.ERROR, message: `payment answered ${answer.status}` });
    client.end();
  });

  const message = { kind: SpanKind.PRODUCER, attributes: { "messaging.system": "kafka", "messaging.destination.name": "orders" } };
  tracer.startActiveSpan("send orders", message, (producer) => {
    order = producer.spanContext();
    producer.end();
  });
  span.setStatus({ code: SpanStatusCode.OK });
  log("info", "checkout", "order accepted without payment");
  span.end();
});
server.close();

// The shipment has a trace of its own, and a link to the message that caused it.
const shipment = { kind: SpanKind.CONSUMER, root: true, links: [{ context: order, attributes: { "messaging.batch": 1 } }] };
tracer.startActiveSpan("process orders", shipment, (span) => {
  log("info", "checkout", "order packed");
  span.end();
});

// Sends what is waiting.
await Promise.all([checkout.shutdown(), payment.shutdown()]);
