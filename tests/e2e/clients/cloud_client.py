#!/usr/bin/env python3
"""Calls a cloud's model through an SDK of Anthropic's or AWS's, once or many times, and says what came of it.

The end-to-end tests run this to send real clients' traffic through the hop.

    cloud_client.py --client bedrock --base-url http://127.0.0.1:8429 --calls 5

It prints one line, a JSON object: how many calls were answered and how many refused, the text of the first
answer, the class of the first error, and the Unix time of the first refusal. It stops at the first refusal. The exit
code is 0 unless the client itself failed.
"""

import argparse
import json
import sys
import time

MODEL = "us.anthropic.claude-sonnet-4-6"
VERTEX_MODEL = "claude-opus-4-8"
ACCESS, SECRET, REGION = "AKIDCALLER", "caller-secret", "us-east-1"


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--prompt-bytes", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pause", type=float, default=0.0)
    return parser.parse_args()


def messages(args):
    return [{"role": "user", "content": "x" * args.prompt_bytes}]


def anthropic_client(args):
    import anthropic

    common = {"base_url": args.base_url, "max_retries": 0}
    if args.client.startswith("bedrock-bearer"):
        client, model = anthropic.AnthropicBedrock(api_key="ABSK-bearer", aws_region=REGION, **common), MODEL
    elif args.client.startswith("bedrock"):
        keys = {"aws_access_key": ACCESS, "aws_secret_key": SECRET, "aws_region": REGION}
        client, model = anthropic.AnthropicBedrock(**keys, **common), MODEL
    else:
        common["base_url"] += "/v1"
        where = {"project_id": "p-1", "region": "global", "access_token": "ya29.test"}
        client, model = anthropic.AnthropicVertex(**where, **common), VERTEX_MODEL
    ask = {"model": model, "max_tokens": args.max_tokens, "messages": messages(args)}

    def call():
        if args.client.endswith("-stream"):
            with client.messages.stream(**ask) as stream:
                return "".join(stream.text_stream)
        return client.messages.create(**ask).content[0].text

    return call


def boto_client(args):
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "bedrock-runtime",
        region_name=REGION,
        endpoint_url=args.base_url,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        config=Config(retries={"max_attempts": 0, "mode": "standard"}),
    )
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": args.max_tokens, "messages": messages(args)}
    converse = {
        "modelId": args.model,
        "messages": [{"role": "user", "content": [{"text": "x" * args.prompt_bytes}]}],
        "inferenceConfig": {"maxTokens": args.max_tokens},
    }

    def call():
        if args.client == "boto3-invoke":
            answer = client.invoke_model(modelId=args.model, body=json.dumps(body))
            return json.loads(answer["body"].read())["content"][0]["text"]
        if args.client == "boto3-invoke-stream":
            answer = client.invoke_model_with_response_stream(modelId=args.model, body=json.dumps(body))
            events = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
            return "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
        if args.client == "boto3-converse":
            return client.converse(**converse)["output"]["message"]["content"][0]["text"]
        answer = client.converse_stream(**converse)
        deltas = [e["contentBlockDelta"]["delta"]["text"] for e in answer["stream"] if "contentBlockDelta" in e]
        return "".join(deltas)

    return call


def refused(error):
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if response.get("Error", {}).get("Code") in ("throttlingException", "ThrottlingException"):
            status = 429
    return status == 429


def main():
    args = parse_args()
    call = boto_client(args) if args.client.startswith("boto3") else anthropic_client(args)
    said = {"answered": 0, "refused": 0, "text": None, "error": None, "first_429_at": None}
    for _ in range(args.calls):
        try:
            text = call()
            said["answered"] += 1
            said["text"] = said["text"] or text
        except Exception as error:  # noqa: BLE001: whatever a client raises is what the test is about
            said["error"] = said["error"] or type(error).__name__
            if not refused(error):
                said["message"] = str(error)
                break
            said["refused"] += 1
            said["first_429_at"] = time.time()
            break
        time.sleep(args.pause)
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
