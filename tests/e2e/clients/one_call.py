#!/usr/bin/env python3
"""Makes one call with a client's defaults, as an application that knows nothing of a proxy does.

    one_call.py anthropic|openai|langchain-anthropic|litellm

Where it goes is decided by the environment alone. Exit code 0 if an answer came.
"""

import sys

MODEL, OPENAI_MODEL, TEXT = "claude-opus-5-5", "gpt-9", "hello"


def anthropic():
    import anthropic

    return anthropic.Anthropic().messages.create(
        model=MODEL, max_tokens=16, messages=[{"role": "user", "content": TEXT}]
    )


def openai():
    import openai

    return openai.OpenAI().chat.completions.create(
        model=OPENAI_MODEL, messages=[{"role": "user", "content": TEXT}]
    )


def langchain_anthropic():
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model=MODEL, max_tokens=16).invoke(TEXT)


def litellm():
    import litellm

    return litellm.completion(
        model=f"anthropic/{MODEL}", max_tokens=16, messages=[{"role": "user", "content": TEXT}]
    )


CLIENTS = {
    "anthropic": anthropic,
    "openai": openai,
    "langchain-anthropic": langchain_anthropic,
    "litellm": litellm,
}
CLIENTS[sys.argv[1]]()
