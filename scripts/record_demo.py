"""Record what agents and connector post in a live demo, for the replay where no lab can be built. Needs root.

Usage: .venv/bin/python scripts/record_demo.py [SECONDS]     (writes src/ringfence/lab/recorded-demo.zst)
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ringfence.cli.recording import Posts, shipped, write
from ringfence.cli.stack import Stack
from ringfence.lab import cluster
from ringfence.lab.settings import LabSettings
from ringfence.wire.orders import PATIENCE, WAIT


def forwarder(target: str, posts: Posts) -> ThreadingHTTPServer:
    """A server on loopback that passes everything on to `target` and keeps the posts that were accepted.

    The rest is agents' questions for orders and the connector's checkpoint: nothing that a replay needs.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            length = self.headers["Content-Length"]
            body = self.rfile.read(int(length)) if length else None
            request = urllib.request.Request(
                target + self.path, body, dict(self.headers), method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=WAIT + PATIENCE) as answer:
                    status, text = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, text = error.code, error.read()
            if status == 200 and self.command == "POST" and body is not None:
                with lock:
                    posts.append((self.path, body))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    posts: Posts = []
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "logs") as stack:
        data = Path(folder) / "server"
        stack.start("server", "server", "--listen", "127.0.0.1:0", "--data", str(data), "--agent-tokens")
        stack.wait_for("server", data / "ready")
        proxy = forwarder((data / "ready").read_text().strip(), posts)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        common = ("--server", f"http://127.0.0.1:{proxy.server_port}", "--cluster", "lab")
        token = str(data / "agent.token")
        lab = cluster.up(LabSettings(name="record", overlay="vxlan"))
        try:
            kubeconfig = str(lab.kubeconfig)
            stack.start(
                "connector", "connector", *common, "--kubeconfig", kubeconfig, "--server-token-file", token
            )
            for node in lab.nodes:
                places = (
                    "--netns",
                    f"/run/netns/{node.netns}",
                    "--pin-dir",
                    f"/run/ringfence/bpf/{node.netns}",
                )
                own = (
                    "--node",
                    node.name,
                    "--data",
                    str(Path(folder) / node.name),
                    "--mode",
                    "detailed",
                    "--window",
                    "5",
                )
                stack.start(f"agent-{node.name}", "agent", *common, "--token-file", token, *own, *places)
            time.sleep(seconds)
            stack.stop()
        finally:
            lab.down()
    write(shipped(), posts)
    print(f"{shipped()}: {len(posts)} posts, {shipped().stat().st_size} octets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
