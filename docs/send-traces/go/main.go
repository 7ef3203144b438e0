// A shop of two services that call each other over HTTP, and a shipment that follows later. Each says what it does as
// spans to an OTLP endpoint, and as JSON lines with the trace id.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The traceparent header.
var propagator = propagation.TraceContext{}

// The exporters read OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS and _TIMEOUT themselves. Without an address they send to this
// machine, by TLS unless told otherwise.
func newExporter(ctx context.Context) (*otlptrace.Exporter, error) {
	_, named := os.LookupEnv("OTEL_EXPORTER_OTLP_ENDPOINT")
	if os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc" {
		var options []otlptracegrpc.Option
		if !named {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		return otlptracegrpc.New(ctx, options...)
	}
	var options []otlptracehttp.Option
	if !named {
		options = append(options, otlptracehttp.WithInsecure())
	}
	return otlptracehttp.New(ctx, options...)
}

// A process has one provider as a rule; this one plays two services.
func providerOf(ctx context.Context, service, version string) (*sdk.TracerProvider, error) {
	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, err
	}
	res := resource.NewSchemaless(
		attribute.String("service.name", service),
		attribute.String("service.namespace", "shop"),
		attribute.String("service.version", version),
		attribute.String("deployment.environment.name", "example"),
		attribute.Int("host.cpu.count", 4),
	)
	return sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(res)), nil
}

func logger(ctx context.Context, service string) *slog.Logger {
	span := trace.SpanContextFromContext(ctx)
	lines := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	return lines.With("service", service, "trace_id", span.TraceID().String(), "span_id", span.SpanID().String())
}

// The payment service: an HTTP server that refuses the card.
func charge(tracer trace.Tracer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, "POST /charge", trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("http.request.method", r.Method),
			attribute.String("url.path", r.URL.Path),
			attribute.Float64("payment.amount", 129.95),
			attribute.Bool("payment.retry", false),
		))
		defer span.End()
		err := errors.New(`card "4711" is over its limit`)
		span.RecordError(err, trace.WithStackTrace(true))
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(attribute.Int("http.response.status_code", http.StatusPaymentRequired))
		logger(ctx, "payment").Error(err.Error())
		w.WriteHeader(http.StatusPaymentRequired)
	}
}

func call(ctx context.Context, tracer trace.Tracer, url string) error {
	ctx, span := tracer.Start(ctx, "POST", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("peer.service", "payment"), attribute.String("url.full", url)))
	defer span.End()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	propagator.Inject(ctx, propagation.HeaderCarrier(request.Header))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	span.SetAttributes(attribute.Int("http.response.status_code", answer.StatusCode))
	span.SetStatus(codes.Error, fmt.Sprintf("payment answered %d", answer.StatusCode))
	return nil
}

// The checkout service: an order of two items, paid in vain, then put aside for the warehouse.
func order(ctx context.Context, tracer trace.Tracer, payment string) (trace.SpanContext, error) {
	ctx, span := tracer.Start(ctx, "POST /checkout", trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", "POST"),
		attribute.Int("http.response.status_code", 202),
		attribute.Bool("customer.loyal", true),
		attribute.Float64("order.weight_kg", 1.25),
		attribute.StringSlice("order.items", []string{"teapot", "cup, small"}),
		attribute.Int64Slice("order.quantities", []int64{1, 6}),
		attribute.String("customer.greeting", `Grüße, 茶 & "tea"`),
	))
	defer span.End()
	span.AddEvent("basket.read", trace.WithAttributes(attribute.Int("basket.size", 2), attribute.Bool("basket.cached", true)))
	if err := call(ctx, tracer, payment); err != nil {
		return trace.SpanContext{}, err
	}
	_, message := tracer.Start(ctx, "send orders", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"), attribute.String("messaging.destination.name", "orders")))
	message.End()
	span.SetStatus(codes.Ok, "")
	logger(ctx, "checkout").Info("order accepted without payment")
	return message.SpanContext(), nil
}

func run(ctx context.Context) error {
	checkout, err := providerOf(ctx, "checkout", "2.3.1")
	if err != nil {
		return err
	}
	payment, err := providerOf(ctx, "payment", "0.9.0")
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: charge(payment.Tracer("shop/payment", trace.WithInstrumentationVersion("1.0.0")))}
	go server.Serve(listener)

	tracer := checkout.Tracer("shop/checkout", trace.WithInstrumentationVersion("1.4.2"))
	cause, err := order(ctx, tracer, fmt.Sprintf("http://%s/charge", listener.Addr()))
	if err != nil {
		return err
	}
	// Waits for what the server is still doing, which may be the end of its span.
	if err := server.Shutdown(ctx); err != nil {
		return err
	}

	// The shipment has a trace of its own, and a link to the message that caused it.
	link := trace.Link{SpanContext: cause, Attributes: []attribute.KeyValue{attribute.Int("messaging.batch", 1)}}
	shipping, shipment := tracer.Start(ctx, "process orders", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(link))
	logger(shipping, "checkout").Info("order packed")
	shipment.End()

	// Sends what is waiting.
	return errors.Join(checkout.Shutdown(ctx), payment.Shutdown(ctx))
}

func main() {
	if err := run(context.Background()); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}
