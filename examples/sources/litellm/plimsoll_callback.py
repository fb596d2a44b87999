"""LiteLLM tells Plimsoll how each call went and what the provider said of limits.

LiteLLM's log is the only place that says whose limit a 429 was: its own (a key's, a team's), the provider's, or a
cooldown. Put this file beside LiteLLM's config.yaml and name it there:

    litellm_settings:
      callbacks: plimsoll_callback.plimsoll

Environment: PLIMSOLL_URL (http://127.0.0.1:9430/v1/observations), PLIMSOLL_TOKEN (none).

It never holds LiteLLM up: a call puts one report into a queue, a thread sends them. When Plimsoll is away, up to 1000
wait, the rest is dropped and counted in `plimsoll.dropped`. It sends no prompt, answer, key, user or team; what tells one
tenant's level from another's is a hash with a salt that this process makes and forgets.
Tried with LiteLLM 1.100.5.
"""

import hashlib
import json
import os
import queue
import re
import threading
import urllib.parse
import urllib.request

from litellm.integrations.custom_logger import CustomLogger

FAMILIES = ("anthropic-", "x-ratelimit-", "ratelimit-", "x-amzn-", "x-ms-region", "apim-request-id", "retry-after")
NAMES = {"request-id", "x-request-id", "x-should-retry", "date", "rate_limit_type", "reset_at"}
SALT = os.urandom(32)
# Errors whose text is about the request, and may repeat it, are told without the text, unless it is about limits.
ABOUT_LIMITS = re.compile(r"usage limit|rate limit|credit balance|spend|quota|billing", re.I)
SECRETS = (
    # Whose limit it was: the kind is kept, the name is not.
    (re.compile(r"(?i)(exceeded for (?:\w+ )?\w+: ).+?(?=\. |$)"), r"\1(removed)"),
    (re.compile(r"cooldown_list=\[[^\]]*\]"), "cooldown_list=[]"),
    (re.compile(r"\b[0-9a-fA-F]{32,}\b|\bsk-[\w.-]+|\beyJ[\w.-]+"), "(removed)"),
)


class Plimsoll(CustomLogger):
    def __init__(self):
        super().__init__()
        self.dropped = 0
        self.models = {}
        self.waiting = queue.Queue(maxsize=1000)
        threading.Thread(target=self.send, name="plimsoll", daemon=True).start()

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.tell(kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.tell(kwargs)

    def tell(self, kwargs):
        try:
            told = report(kwargs["standard_logging_object"], kwargs.get("httpx_response"), self.models)
            self.waiting.put_nowait(told)
        except Exception:  # a full queue, or a log of another form: never LiteLLM's trouble
            self.dropped += 1

    def send(self):
        url = os.environ.get("PLIMSOLL_URL", "http://127.0.0.1:9430/v1/observations")
        head = {"content-type": "application/x-ndjson"}
        if token := os.environ.get("PLIMSOLL_TOKEN"):
            head["authorization"] = f"Bearer {token}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            batch = [self.waiting.get()]
            while len(batch) < 100 and not self.waiting.empty():
                batch.append(self.waiting.get())
            lines = "".join(json.dumps(one) + "\n" for one in batch)
            try:
                direct.open(urllib.request.Request(url, lines.encode(), head), timeout=2).close()
            except Exception:
                self.dropped += len(batch)


def report(log, answer, models):
    hidden = log.get("hidden_params") or {}
    error = log.get("error_information") or {}
    meta = log.get("metadata") or {}
    failed = log.get("status") == "failure"
    # Without a provider's address LiteLLM asked no provider, whatever the category says: it calls its own limit of a
    # model vendor_rate_limit. The log then has the public name of the model: tell which one it stood for last.
    host = urllib.parse.urlsplit(log.get("api_base") or "").hostname
    model = (log.get("model") or "").removeprefix(f"{log.get('custom_llm_provider')}/")
    if host:
        if len(models) < 1000:
            models[log.get("model_group") or model] = model
    else:
        model = models.get(log.get("model_group") or model)
    # A stream on /v1/messages has no headers in the log, but the answer itself.
    given = hidden.get("additional_headers") or getattr(answer, "headers", None)
    told = {
        "t": log.get("endTime"),
        "started": log.get("startTime"),
        "headed": log.get("completionStartTime") if log.get("stream") else None,
        "route": "litellm",
        "host": host,
        "method": "POST",
        "path": (meta.get("user_api_key_request_route") or "").partition("?")[0],
        "status": 200,
        "headers": headers(given),
        "model": model,
        "user_agent": log.get("user_agent"),
        "tenant": tenant(meta),
        "answered_by": "gateway" if log.get("cache_hit") else "upstream",
    }
    # The provider's id and LiteLLM's own: by either the call is known again where others tell of it.
    ids = [told["headers"].get("request-id") or error.get("error_provider_request_id"), log.get("litellm_call_id")]
    told["request_id"] = [one for one in ids if one]
    if failed:
        told.update(failure(error, host))
    else:
        told.update(usage(meta.get("usage_object") or {}, log))
    return {name: value for name, value in told.items() if value not in (None, "", {}, [])}


def tenant(meta):
    names = [str(meta.get(name) or "") for name in ("user_api_key_hash", "user_api_key_team_id")]
    return hashlib.sha256(SALT + "/".join(names).encode()).hexdigest()[:16] if any(names) else None


def headers(given):
    given = {name.lower(): str(value) for name, value in (given or {}).items()}
    behind = {name.removeprefix("llm_provider-"): value for name, value in given.items() if name.startswith("llm_provider-")}
    # Beside the provider's own, LiteLLM writes four plain names that may be the provider's or a key's: nobody's.
    doubtful = [f"x-ratelimit-{field}-{what}" for field in ("limit", "remaining") for what in ("requests", "tokens")]
    plain = {name: value for name, value in given.items() if not (behind and name in doubtful)} | behind
    return {name: value for name, value in plain.items() if name in NAMES or name.startswith(FAMILIES)}


def failure(error, host):
    category = error.get("error_rate_limit_category") or ""
    # LiteLLM gives its own refusal while deployments cool down no code and no category.
    cooldown = error.get("error_class") == "RouterRateLimitError"
    code = str(error.get("error_code") or "")
    status = 429 if cooldown else int(code) if code.isdigit() else None
    own = cooldown or category.startswith("litellm_") or (category and not host)
    by = "gateway" if own else "upstream" if category else None
    message = error.get("error_message") or ""
    for found, instead in SECRETS:
        message = found.sub(instead, message)
    if status in (400, 404, 413, 422) and not ABOUT_LIMITS.search(message):
        message = ""
    body = {"message": message[:1000], "type": error.get("error_class")}
    body |= {name: error.get(name) for name in ("error_rate_limit_category", "error_rate_limit_type", "error_code")}
    return {"status": status, "answered_by": by, "body": {"error": {k: v for k, v in body.items() if v}}}


def usage(given, log):
    details = given.get("prompt_tokens_details") or {}
    read = given.get("cache_read_input_tokens") or details.get("cached_tokens") or 0
    write = given.get("cache_creation_input_tokens") or details.get("cache_creation_tokens") or 0
    # LiteLLM counts cache reads and writes among the prompt's tokens.
    prompt = given.get("prompt_tokens") or log.get("prompt_tokens") or 0
    return {
        "input_tokens": max(0, prompt - read - write),
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "output_tokens": given.get("completion_tokens") or log.get("completion_tokens"),
    }


plimsoll = Plimsoll()
