import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.Scope;
import io.opentelemetry.context.propagation.TextMapGetter;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.autoconfigure.AutoConfiguredOpenTelemetrySdk;
import io.opentelemetry.sdk.resources.Resource;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Instant;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * A shop of two services that call each other over HTTP, and a shipment that follows later. Each says what it does as
 * spans to an OTLP endpoint, and as JSON lines with the trace id.
 */
public final class Shop {
  /** The traceparent header. */
  private static final W3CTraceContextPropagator PROPAGATOR = W3CTraceContextPropagator.getInstance();

  private static final TextMapGetter<HttpExchange> HEADERS =
      new TextMapGetter<>() {
        @Override
        public Iterable<String> keys(HttpExchange exchange) {
          return exchange.getRequestHeaders().keySet();
        }

        @Override
        public String get(HttpExchange exchange, String key) {
          return exchange.getRequestHeaders().getFirst(key);
        }
      };

  /**
   * A process has one SDK as a rule; this one plays two services. It is configured by OpenTelemetry's variables, such as
   * OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _HEADERS and _TIMEOUT; what stands here holds where they are not set.
   */
  private static OpenTelemetrySdk sdkOf(String service, String version) {
    Attributes attributes =
        Attributes.builder()
            .put("service.name", service)
            .put("service.namespace", "shop")
            .put("service.version", version)
            .put("deployment.environment.name", "example")
            .put("host.cpu.count", 4)
            .build();
    Map<String, String> defaults =
        Map.of(
            "otel.exporter.otlp.protocol", "http/protobuf",
            "otel.metrics.exporter", "none",
            "otel.logs.exporter", "none");
    return AutoConfiguredOpenTelemetrySdk.builder()
        .addPropertiesSupplier(() -> defaults)
        .addResourceCustomizer((resource, config) -> resource.merge(Resource.create(attributes)))
        .disableShutdownHook()
        .build()
        .getOpenTelemetrySdk();
  }

  private static void log(String level, String service, String message) {
    SpanContext span = Span.current().getSpanContext();
    System.out.printf(
        "{\"time\":\"%s\",\"level\":\"%s\",\"service\":\"%s\",\"message\":\"%s\",\"trace_id\":\"%s\",\"span_id\":\"%s\"}%n",
        Instant.now(), level, service, message.replace("\"", "\\\""), span.getTraceId(), span.getSpanId());
  }

  /** The payment service: an HTTP server that refuses the card. */
  private static void charge(Tracer tracer, HttpExchange exchange) throws IOException {
    Span span =
        tracer
            .spanBuilder("POST /charge")
            .setParent(PROPAGATOR.extract(Context.root(), exchange, HEADERS))
            .setSpanKind(SpanKind.SERVER)
            .setAttribute("http.request.method", exchange.getRequestMethod())
            .setAttribute("url.path", exchange.getRequestURI().getPath())
            .setAttribute("payment.amount", 129.95)
            .setAttribute("payment.retry", false)
            .startSpan();
    try (Scope scope = span.makeCurrent()) {
      throw new IllegalStateException("card \"4711\" is over its limit");
    } catch (IllegalStateException error) {
      span.recordException(error);
      span.setStatus(StatusCode.ERROR, error.getMessage());
      span.setAttribute("http.response.status_code", 402);
      try (Scope scope = span.makeCurrent()) {
        log("error", "payment", error.getMessage());
      }
    } finally {
      span.end();
    }
    // The caller goes on only when the span has ended.
    exchange.sendResponseHeaders(402, -1);
    exchange.close();
  }

  private static void call(Tracer tracer, URI url) throws IOException, InterruptedException {
    Span span =
        tracer
            .spanBuilder("POST")
            .setSpanKind(SpanKind.CLIENT)
            .setAttribute("peer.service", "payment")
            .setAttribute("url.full", url.toString())
            .startSpan();
    try (Scope scope = span.makeCurrent()) {
      HttpRequest.Builder request = HttpRequest.newBuilder(url).POST(HttpRequest.BodyPublishers.noBody());
      PROPAGATOR.inject(Context.current(), request, HttpRequest.Builder::setHeader);
      int status = HttpClient.newHttpClient().send(request.build(), BodyHandlers.discarding()).statusCode();
      span.setAttribute("http.response.status_code", status);
      span.setStatus(StatusCode.ERROR, "payment answered " + status);
    } finally {
      span.end();
    }
  }

  /** The checkout service: an order of two items, paid in vain, then put aside for the warehouse. */
  private static SpanContext order(Tracer tracer, URI payment) throws IOException, InterruptedException {
    Span span =
        tracer
            .spanBuilder("POST /checkout")
            .setSpanKind(SpanKind.SERVER)
            .setAttribute("http.request.method", "POST")
            .setAttribute("http.response.status_code", 202)
            .setAttribute("customer.loyal", true)
            .setAttribute("order.weight_kg", 1.25)
            .setAllAttributes(
                Attributes.builder().put("order.items", "teapot", "cup, small").put("order.quantities", 1L, 6L).build())
            .setAttribute("customer.greeting", "Grüße, 茶 & \"tea\"")
            .startSpan();
    try (Scope scope = span.makeCurrent()) {
      span.addEvent("basket.read", Attributes.builder().put("basket.size", 2).put("basket.cached", true).build());
      call(tracer, payment);
      Span message =
          tracer
              .spanBuilder("send orders")
              .setSpanKind(SpanKind.PRODUCER)
              .setAttribute("messaging.system", "kafka")
              .setAttribute("messaging.destination.name", "orders")
              .startSpan();
      message.end();
      span.setStatus(StatusCode.OK);
      log("info", "checkout", "order accepted without payment");
      return message.getSpanContext();
    } finally {
      span.end();
    }
  }

  public static void main(String[] arguments) throws IOException, InterruptedException {
    // `shutdown` sends what is waiting.
    OpenTelemetrySdk checkout = sdkOf("checkout", "2.3.1");
    OpenTelemetrySdk payment = sdkOf("payment", "0.9.0");
    Tracer payments = payment.getTracerProvider().tracerBuilder("shop/payment").setInstrumentationVersion("1.0.0").build();
    HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext("/charge", exchange -> charge(payments, exchange));
    server.start();
    try {
      Tracer tracer =
          checkout.getTracerProvider().tracerBuilder("shop/checkout").setInstrumentationVersion("1.4.2").build();
      SpanContext cause = order(tracer, URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/charge"));

      // The shipment has a trace of its own, and a link to the message that caused it.
      Span shipment =
          tracer
              .spanBuilder("process orders")
              .setNoParent()
              .setSpanKind(SpanKind.CONSUMER)
              .addLink(cause, Attributes.of(AttributeKey.longKey("messaging.batch"), 1L))
              .startSpan();
      try (Scope scope = shipment.makeCurrent()) {
        log("info", "checkout", "order packed");
      }
      shipment.end();
    } finally {
      server.stop(0);
      checkout.shutdown().join(2, TimeUnit.MINUTES);
      payment.shutdown().join(2, TimeUnit.MINUTES);
    }
  }
}
