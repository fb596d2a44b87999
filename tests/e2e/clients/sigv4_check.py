#!/usr/bin/env python3
"""Says whether a request's AWS signature is right, by AWS's own botocore.

Reads {method, url, headers, body, access, secret, region, service} as JSON on standard input; prints "valid", or both
signatures.
"""

import json
import re
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def main():
    told = json.load(sys.stdin)
    headers = {name.lower(): value for name, value in told["headers"].items()}
    authorization = headers["authorization"]
    signed = re.search(r"SignedHeaders=([^,]+)", authorization).group(1).split(";")
    request = AWSRequest(
        method=told["method"],
        url=told["url"],
        headers={name: headers[name] for name in signed},
        data=told["body"].encode(),
    )
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(told["access"], told["secret"]), told["service"], told["region"])
    wanted = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    found = re.search(r"Signature=([0-9a-f]+)", authorization).group(1)
    print("valid" if wanted == found else f"wanted {wanted}, found {found}")


if __name__ == "__main__":
    main()
