"""
Receives webhooks of threads-edge, with Python's standard library. SECRET is the secret of the endpoint, or several separated
by commas while you rotate it.

    PORT=9000 SECRET=whsec_… python3 receiver.py
"""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_SECONDS = 300


def is_genuine(secrets, headers, body):
    """Standard Webhooks (standardwebhooks.com): HMAC-SHA256 of id, time and body. `body` is the bytes as they arrived."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id or not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    signed = f"{id}.{timestamp}.".encode() + body
    expected = [
        b"v1," + base64.b64encode(hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256))
        for secret in secrets
    ]
    given = headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(one, other) for one in expected for other in given)


class Handler(BaseHTTPRequestHandler):
    secrets = []
    # The same event may arrive twice. A real receiver stores the id with what it does, in one transaction.
    seen = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not is_genuine(self.secrets, self.headers, body):
            return self.answer(401)
        event = json.loads(body)
        if event["type"] == "endpoint.challenge":
            return self.answer(200, json.dumps({"challenge": event["challenge"]}).encode())
        if event["id"] not in self.seen:
            print(event["type"], json.dumps(event["data"], separators=(",", ":")), flush=True)
            self.seen.add(event["id"])
        self.answer(204)

    def answer(self, status, body=b""):
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    Handler.secrets = [secret for secret in os.environ["SECRET"].split(",") if secret]
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
