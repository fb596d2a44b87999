"""OpenTelemetry: client spans of httpx and httpx2 with the limit headers of each answer, for Plimsoll's OTLP receiver.

    pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http opentelemetry-instrumentation-httpx
    import otel_capture; otel_capture.start()          # before the first client is made

The span of a call ends when the head of the answer is there, so a stream tells its limits early. Only the headers
below are told; the query is cut off the URL. Change the endpoint if Plimsoll or your collector is elsewhere. Do not
sample before Plimsoll: the one call in a hundred that is kept is seldom the one that was refused.

Anthropic's SDK makes a span of its own around each call, with its tries: scope com.anthropic.sdk.python, with model,
tokens, anthropic.request.id and a status, but without limit headers. It is the parent of these spans, which are one a
try: count only one of the two kinds.

Without code: OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE="anthropic-ratelimit-.*,x-ratelimit-.*,..." does
it too, but writes `_` for every `-` in a name (http.response.header.anthropic_ratelimit_requests_limit), and the URL
keeps its query. Tried with opentelemetry-sdk 1.45.2, opentelemetry-instrumentation-httpx 0.66b2, anthropic 2.12.0.
"""

import os

os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # the stable names: http.response.status_code, …

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation import httpx as instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

FAMILIES = ("anthropic-ratelimit-", "anthropic-priority-", "anthropic-fast-", "x-ratelimit-", "ratelimit-", "x-amzn-", "retry-after")
NAMES = {"request-id", "x-request-id", "x-should-retry", "date", "anthropic-organization-id", "anthropic-workspace-id"}


def asked(span, request):
    url = request.url
    span.set_attribute("url.full", f"{url.scheme}://{url.netloc.decode()}{url.path}")
    span.set_attribute("url.path", url.path)


def answered(span, request, response):
    for name, value in (response.headers or {}).items():
        name, value = (part.decode("latin-1") if isinstance(part, bytes) else part for part in (name, value))
        name = name.lower()
        if name in NAMES or name.startswith(FAMILIES):
            span.set_attribute(f"http.response.header.{name}", [value])


async def async_asked(span, request):
    asked(span, request)


async def async_answered(span, request, response):
    answered(span, request, response)


def start(endpoint="http://127.0.0.1:4318/v1/traces", service="my-service"):
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint), schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    hooks = {"request_hook": asked, "response_hook": answered, "async_request_hook": async_asked, "async_response_hook": async_answered}
    for name in ("HTTPXClientInstrumentor", "HTTPX2ClientInstrumentor"):  # the second since 0.66
        if instrumentor := getattr(instrumentation, name, None):
            instrumentor().instrument(**hooks)
