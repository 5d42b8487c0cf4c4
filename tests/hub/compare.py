"""The hub's cache as Python's `huggingface_hub` and foretoken both see it: what one downloads the other finds.

    python3 -m venv .venv && .venv/bin/pip install -r tests/hub/requirements.txt
    .venv/bin/python tests/hub/compare.py target/debug/foretoken

Asks a hub of its own on loopback, which has the golden checkpoint llama-gqa as owner/name, and a GGUF file beside it.
"""

import hashlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    path.name: path.read_bytes()
    for path in sorted((GOLDEN / "llama-gqa").iterdir())
    if path.name != "expected.json"
} | {"Q8_0/m-Q8_0.gguf": (GOLDEN / "gguf/llama-gqa.gguf").read_bytes()}


def is_large(name):
    return name.endswith((".safetensors", ".gguf"))


def digest(name):
    content = FILES[name]
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listed(name):
    file = {"rfilename": name, "size": len(FILES[name]), "blobId": digest(name) if not is_large(name) else "0" * 40}
    if is_large(name):
        file["lfs"] = {"sha256": digest(name), "size": len(FILES[name]), "pointerSize": 130}
    return file


class Hub(BaseHTTPRequestHandler):
    """What foretoken and Python ask of the hub: the list of files, and files, of which large ones are elsewhere."""

    protocol_version = "HTTP/1.1"
    asked = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        if path.startswith("/api/models/owner/name"):
            return self.tree() if "/tree/" in path else self.repository()
        name = path.split(f"/{COMMIT}/")[-1].split("/main/")[-1]
        if name not in FILES:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(name)}"', "Accept-Ranges": "bytes"}
        if is_large(name) and not path.startswith("/store/"):
            headers |= {"X-Linked-Etag": f'"{digest(name)}"', "X-Linked-Size": str(len(FILES[name]))}
            return self.answer(302, b"", headers | {"Location": f"/store/{COMMIT}/{name}"})
        content, wanted = FILES[name], self.headers.get("Range")
        if not wanted:
            return self.answer(200, content, headers)
        start, end = wanted.removeprefix("bytes=").split("-")
        start, end = int(start), min(int(end) + 1 if end else len(content), len(content))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self.answer(206, content[start:end], headers)

    def repository(self):
        siblings = [listed(name) for name in FILES]
        body = {"id": "owner/name", "modelId": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def tree(self):
        files = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": digest(name)} for name in FILES]
        self.answer(200, json.dumps(files).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(foretoken):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as home:
        # Before the package is imported, which reads them once.
        os.environ |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "XDG_CACHE_HOME": home,
        }
        import huggingface_hub
        from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download

        def run(*flags, **variables):
            done = subprocess.run([foretoken, *flags], capture_output=True, text=True, env=os.environ | variables)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def check(what, holds):
            assert holds, what
            print(f"ok  {what}")

        print(f"huggingface_hub {huggingface_hub.__version__}, {run('--version').strip()}")
        pulled = run("pull", "owner/name").strip()
        found = snapshot_download("owner/name", local_files_only=True)
        check("Python finds what foretoken pulled", Path(found) == Path(pulled))
        for name in FILES:
            if "/" not in name:
                path = Path(hf_hub_download("owner/name", name, local_files_only=True))
                check(f"  {name}, byte for byte", path.read_bytes() == FILES[name])
        scanned = scan_cache_dir()
        repository = next(iter(scanned.repos))
        revision = next(iter(repository.revisions))
        check("scan_cache_dir has no warnings", not scanned.warnings)
        check("  and sees the model", repository.repo_id == "owner/name" and revision.commit_hash == COMMIT)
        check("  its branch", revision.refs == {"main"})
        whole = sum(len(content) for name, content in FILES.items() if "/" not in name)
        check("  and its size", repository.size_on_disk == whole)
        Hub.asked.clear()
        snapshot_download("owner/name", allow_patterns=["*.json", "*.safetensors"])
        check("Python downloads nothing again", not any("/store/" in path for path in Hub.asked))

        run("remove", "owner/name")
        check("Python sees that it is removed", not scan_cache_dir().repos)

        found = Path(snapshot_download("owner/name"))
        Hub.asked.clear()
        report = json.loads(run("inspect", "--model", "owner/name", "--json", HF_HUB_OFFLINE="1"))
        check("foretoken finds what Python downloaded", report["model"] == str(found))
        report = json.loads(run("inspect", "--model", "owner/name:q8_0", "--json", HF_HUB_OFFLINE="1"))
        check("  a file in a folder, too", report["model"] == str(found / "Q8_0/m-Q8_0.gguf"))
        state = [model["state"] for model in json.loads(run("models", "--json"))["models"]]
        check("  and knows that it did not check it", state == ["not_verified"])
        run("pull", "owner/name")
        check("  which pull does, without a download", not any("/store/" in path for path in Hub.asked))
        state = [model["state"] for model in json.loads(run("models", "--verify", "--json"))["models"]]
        check("  and models --verify for the rest", state == ["verified"])
        print(run("models"), end="")

        # What one began the other goes on with.
        run("remove", "owner/name")
        blob = Path(constants.HF_HUB_CACHE) / "models--owner--name/blobs" / digest("model.safetensors")
        blob.parent.mkdir(parents=True)
        Path(f"{blob}.incomplete").write_bytes(FILES["model.safetensors"][:50_000])
        run("pull", "owner/name")
        check("a download that Python began is gone on with", blob.read_bytes() == FILES["model.safetensors"])
        encrypted(home, foretoken, check)


def encrypted(home, foretoken, check):
    """Through https, whose certificate nobody but the user vouches for."""
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusted = Path(home) / "trusted.pem"
    authority.cert_pem.write_to_path(trusted)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def pull(**variables):
        more = {"HF_ENDPOINT": f"https://localhost:{server.server_address[1]}", "HF_HUB_CACHE": f"{home}/encrypted"} | variables
        flags = [foretoken, "pull", "owner/name"]
        return subprocess.run(flags, capture_output=True, text=True, env=os.environ | more)

    # Nothing but this is trusted, and it only where it is named.
    os.environ.pop("SSL_CERT_FILE", None)
    refused = pull()
    check("a certificate that nobody vouches for is refused", refused.returncode == 1 and "certificate" in refused.stderr)
    check("  unless SSL_CERT_FILE names who does", pull(SSL_CERT_FILE=str(trusted)).returncode == 0)
    missing = pull(SSL_CERT_FILE="/nowhere", HF_HUB_CACHE=f"{home}/missing")
    check("  and says so where that is not there", missing.returncode == 1 and "SSL_CERT_FILE" in missing.stderr)
    print(refused.stderr + missing.stderr, end="")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
