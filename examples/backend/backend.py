"""
A back end that publishes to threads-edge what changed, as a Django app does with `post_save` and `transaction.on_commit`.

It has orders of its own, of which it publishes events, and profiles, whose caches it invalidates. Both go through an outbox:
the row that says what to send is in the transaction of the change. So nothing is sent for a change that did not happen, and
nothing is lost when the API or this process is down.

    PORT=9100 EDGE_URL=http://localhost:8787 SERVICE_TOKEN=… python3 backend.py

    curl localhost:9100/orders -d '{"buyer": "u_…", "total": 12}'
    curl -X PUT localhost:9100/profiles/u_… -d '{"bio": "Hello"}'
"""

import json
import os
import sqlite3
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from edge import Edge, Refused

SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, buyer TEXT NOT NULL, total INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS profiles (id TEXT PRIMARY KEY, bio TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, call TEXT NOT NULL, argument TEXT NOT NULL);
"""


class Signal:
    """As in Django: whoever saves a model sends the signal, and knows none of its receivers."""

    def __init__(self):
        self.receivers = []

    def connect(self, receiver):
        self.receivers.append(receiver)
        return receiver

    def send(self, db, **values):
        for receiver in self.receivers:
            receiver(db, **values)


order_saved = Signal()
profile_saved = Signal()


@order_saved.connect
def publish_order(db, order):
    event = {
        "id": f"order:{order['id']}",
        "channel": "custom_orders",
        "type": "order_created",
        "data": order,
        "audience": [order["buyer"]],  # on streams, only the buyer sees it
    }
    enqueue(db, "publish", event)


@profile_saved.connect
def invalidate_profile(db, user_id):
    enqueue(db, "invalidate", {"users": [user_id]})


def enqueue(db, call, argument):
    db.execute("INSERT INTO outbox (call, argument) VALUES (?, ?)", (call, json.dumps(argument)))


def send_outbox(path, edge, has_more):
    """Sends what is in the outbox, oldest first. The process may end between the two steps: then it sends a row twice."""
    db = sqlite3.connect(path)
    while True:
        row = db.execute("SELECT id, call, argument FROM outbox ORDER BY id LIMIT 1").fetchone()
        if row is None:
            has_more.wait()
            has_more.clear()
            continue
        id, call, argument = row
        try:
            if call == "publish":
                edge.publish(json.loads(argument))
            else:
                edge.invalidate(**json.loads(argument))
            print("sent", call, argument, flush=True)
        except Refused as refused:
            print("refused", call, argument, refused, file=sys.stderr, flush=True)  # a mistake of ours: do not block the rest
        with db:
            db.execute("DELETE FROM outbox WHERE id = ?", (id,))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        if self.path != "/orders":
            return self.answer(404, {})
        body = self.read()
        order = {"id": uuid.uuid4().hex, "buyer": body["buyer"], "total": body["total"]}
        with self.server.transaction() as db:
            db.execute("INSERT INTO orders VALUES (:id, :buyer, :total)", order)
            order_saved.send(db, order=order)
        self.server.has_more.set()
        self.answer(201, order)

    def do_PUT(self):
        user_id = self.path.removeprefix("/profiles/")
        bio = self.read()["bio"]
        with self.server.transaction() as db:
            # Your own back end writes the database that threads-edge reads.
            db.execute("INSERT OR REPLACE INTO profiles VALUES (?, ?)", (user_id, bio))
            profile_saved.send(db, user_id=user_id)
        self.server.has_more.set()
        self.answer(200, {"id": user_id, "bio": bio})

    def read(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port, path):
        super().__init__(("127.0.0.1", port), Handler)
        self.path = path
        self.has_more = threading.Event()

    def transaction(self):
        """A connection that commits at the end of `with`, or rolls back."""
        return sqlite3.connect(self.path)


def main():
    path = os.environ.get("DATABASE", "backend.sqlite")
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA)
    edge = Edge(os.environ["EDGE_URL"], os.environ["SERVICE_TOKEN"])
    server = Server(int(os.environ.get("PORT", "9100")), path)
    threading.Thread(target=send_outbox, args=(path, edge, server.has_more), daemon=True).start()
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
