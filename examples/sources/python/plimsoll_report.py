"""Anthropic's Python SDK tells Plimsoll what each answer says of limits, at the moment its head arrives.

    import anthropic, plimsoll_report
    client = anthropic.Anthropic(http_client=anthropic.DefaultHttpxClient(event_hooks=plimsoll_report.hooks()))
    client = anthropic.AsyncAnthropic(
        http_client=anthropic.DefaultAsyncHttpxClient(event_hooks=plimsoll_report.async_hooks()))

Every try is told, also those that the SDK repeats. A thread sends; what does not fit into its queue is dropped and
counted. Told are the headers below, the model, and the body of a failure that is about a limit; no prompt, answer, key
or query. Environment: PLIMSOLL_URL, PLIMSOLL_TOKEN. Tried with anthropic 2.12.0 (httpx2); httpx takes the same hooks.
"""
import json, os, queue, re, threading, time, urllib.request

FAMILIES = ("anthropic-ratelimit-", "anthropic-priority-", "anthropic-fast-", "x-ratelimit-", "ratelimit-", "x-amzn-", "retry-after")
NAMES = {"request-id", "x-request-id", "x-should-retry", "date", "anthropic-organization-id", "anthropic-workspace-id"}
LIMITS = re.compile(rb"usage limit|credit balance|spend|quota|billing", re.I)  # other failures may repeat the request
dropped, _waiting = 0, queue.Queue(maxsize=1000)

def _start(request):
    request.extensions["plimsoll_started"] = time.time()

def _report(request, response, body):
    global dropped
    try:
        sent = getattr(request, "_content", b"")  # absent where the request is a stream
        _waiting.put_nowait({
            "t": time.time(), "started": request.extensions.get("plimsoll_started"), "headed": time.time(),
            "host": request.url.host, "method": request.method, "path": request.url.path, "status": response.status_code,
            "headers": {k: v for k, v in response.headers.items() if k in NAMES or k.startswith(FAMILIES)},
            "body": body[:4000].decode("utf-8", "replace") if response.status_code in (429, 529) or LIMITS.search(body) else None,
            "model": json.loads(sent).get("model") if sent else None, "request_bytes": len(sent), "traceparent":
            request.headers.get("traceparent"), "user_agent": request.headers.get("user-agent")})
    except Exception:
        dropped += 1

def hooks():
    def answered(response):
        _report(response.request, response, response.read() if response.status_code >= 400 else b"")
    return {"request": [_start], "response": [answered]}

def async_hooks():
    async def start(request):
        _start(request)
    async def answered(response):
        _report(response.request, response, await response.aread() if response.status_code >= 400 else b"")
    return {"request": [start], "response": [answered]}

def _send():
    global dropped
    url, token = os.environ.get("PLIMSOLL_URL", "http://127.0.0.1:9430/v1/observations"), os.environ.get("PLIMSOLL_TOKEN")
    head = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            direct.open(urllib.request.Request(url, json.dumps(_waiting.get()).encode(), head), timeout=2).close()
        except Exception:
            dropped += 1

threading.Thread(target=_send, name="plimsoll", daemon=True).start()
