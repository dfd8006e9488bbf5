"""Starts a proxy with two certificates and holds conversations and scanners against it. See `tests/tls-scan`."""

import argparse
import http.server
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import conversations
import mutations
import sessions

NAME = "matrix.example.com"

# What testssl.sh marks and why it is no fault here.
EXPECTED_FINDINGS = {
    "cert_chain_of_trust": "the authority is made for this run",
    "cert_caIssuers": "the authority is made for this run",
    "cert_crlDistributionPoints": "the authority is made for this run",
    "cert_ocspURL": "the authority is made for this run",
    "cert_expirationStatus": "the certificate is made for a few days",
    "cert_validityPeriod": "the certificate is made for a few days",
    "cert_notAfter": "the certificate is made for a few days",
    "cert_revocation": "the authority is made for this run",
    "DNS_CAArecord": "a name that is only used here",
    "OCSP_stapling": "no authority has signed anything to staple",
    "cert_mustStapleExtension": "no authority has signed anything to staple",
    "certificate_transparency": "the authority is made for this run",
    "cipher_order": "the client's order counts, by design: each suite is good, and a client knows its own processor",
    "sessionresumption_ticket": "its probe does not connect; the conversations resume by tickets",
    "overall_grade": "the authority is made for this run",
}


class Verdict:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, holds, what, seen=""):
        if holds:
            self.passed += 1
            print(f"  ok     {what}")
        else:
            self.failed += 1
            print(f"  FAULT  {what}: {seen}")


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    targets = []

    def do_GET(self):
        self.targets.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"in")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """The proxy resets connections whose client was cut off."""


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_certificates(folder):
    """An authority, and for one name a certificate with a P-256 key and one with an RSA key."""
    authority = folder / "authority.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", str(folder / "authority.key"), "-out", str(authority), "-days", "30",
            "-subj", "/CN=scan authority")  # fmt: skip
    (folder / "extensions").write_text(f"subjectAltName=DNS:{NAME},DNS:localhost\nextendedKeyUsage=serverAuth\n")
    for kind, key in (("ecdsa", key), ("rsa", ["-newkey", "rsa:2048", "-nodes"])):
        request = str(folder / f"{kind}.csr")
        openssl("req", *key, "-keyout", str(folder / f"{kind}.key"), "-out", request, "-subj", f"/CN={NAME}")
        openssl("x509", "-req", "-in", request, "-CA", str(authority), "-CAkey", str(folder / "authority.key"),
                "-CAcreateserial", "-days", "20", "-extfile", str(folder / "extensions"),
                "-out", str(folder / f"{kind}.pem"))  # fmt: skip
    return authority


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_proxy(binary, folder, port, upstream):
    config = f"""
[server]
workers = 1
access_log = "off"
[limits]
connections_per_address_max = 4096
[timeouts]
tls_handshake = "3s"
[[listener]]
address = "127.0.0.1:{port}"
[[certificate]]
chain = "ecdsa.pem"
key = "ecdsa.key"
[[certificate]]
chain = "rsa.pem"
key = "rsa.key"
[[homeserver]]
server_name = "example.com"
public_host = "{NAME}"
upstream = "http://127.0.0.1:{upstream}"
"""
    (folder / "ringfence.toml").write_text(config)
    errors = open(folder / "stderr", "wb")
    proxy = subprocess.Popen([binary, "run", "--config", str(folder / "ringfence.toml")], stderr=errors)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return proxy
        time.sleep(0.05)
    raise SystemExit(f"the proxy does not listen:\n{(folder / 'stderr').read_text()}")


def sslyze(folder, port, check):
    out = folder / "sslyze.json"
    program = str(pathlib.Path(sys.executable).with_name("sslyze"))
    scans = ["sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "ems", "openssl_ccs", "reneg", "early_data",
             "heartbleed", "robot", "compression"]  # fmt: skip
    command = [program, "--quiet", "--json_out", str(out), "--mozilla_config", "disable", "--sni", NAME]
    command += [f"--{scan}" for scan in scans]
    done = subprocess.run([*command, f"127.0.0.1:{port}"], capture_output=True, text=True)
    results = json.loads(out.read_text())["server_scan_results"][0] if out.exists() else {}
    check(results.get("scan_status") == "COMPLETED", "sslyze completes its scan", done.stderr[-500:])
    if results.get("scan_status") != "COMPLETED":
        return
    scan = {name: attempt["result"] for name, attempt in results["scan_result"].items() if attempt["result"]}
    for attempt in [name for name, attempt in results["scan_result"].items() if attempt["status"] == "ERROR"]:
        check(False, f"sslyze: {attempt} could not be tried", results["scan_result"][attempt]["error_reason"])
    judge_suites(scan, check)
    renegotiation = scan["session_renegotiation"]
    check(renegotiation["supports_secure_renegotiation"], "sslyze: renegotiation is secured (RFC 5746)", renegotiation)
    check(not renegotiation["is_vulnerable_to_client_renegotiation_dos"], "sslyze: a client cannot renegotiate", renegotiation)
    check(not scan["tls_compression"]["supports_compression"], "sslyze: no compression", scan["tls_compression"])
    check(not scan["tls_1_3_early_data"]["supports_early_data"], "sslyze: no early data", scan["tls_1_3_early_data"])
    check(not scan["heartbleed"]["is_vulnerable_to_heartbleed"], "sslyze: no Heartbleed", scan["heartbleed"])
    check(not scan["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"], "sslyze: no early CCS", "")
    check("NOT_VULNERABLE" in scan["robot"]["robot_result"], "sslyze: no ROBOT", scan["robot"])
    check(scan["tls_extended_master_secret"]["supports_ems_extension"], "sslyze: extended master secret", "")


def judge_suites(scan, check):
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        accepted = scan[f"{version}_cipher_suites"]["accepted_cipher_suites"]
        check(not accepted, f"sslyze: {version} is not spoken", accepted)
    for version in ("tls_1_2", "tls_1_3"):
        names = [suite["cipher_suite"]["name"] for suite in scan[f"{version}_cipher_suites"]["accepted_cipher_suites"]]
        check(names, f"sslyze: {version} is spoken ({len(names)} suites)")
        aead = all("GCM" in name or "CHACHA20" in name for name in names)
        check(aead, f"sslyze: {version} has AEAD suites only", names)
        secret = version == "tls_1_3" or all("_ECDHE_" in name for name in names)
        check(secret, f"sslyze: {version} has forward secrecy only", names)


def testssl(folder, port, check):
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    check(program, "testssl.sh is installed", "apt-get install testssl.sh")
    if not program:
        return
    out = folder / "testssl.json"
    parts = ["--protocols", "--std", "--server-defaults", "--server-preference", "--fs", "--vulnerable"]
    options = ["--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--add-ca", str(folder / "authority.pem")]
    command = [program, *options, "--jsonfile", str(out), *parts, "--ip", "127.0.0.1", f"{NAME}:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder)
    findings = json.loads(out.read_text()) if out.exists() else []
    check(len(findings) > 50, f"testssl.sh completes its scan ({len(findings)} findings)", done.stdout[-500:] + done.stderr[-500:])
    for finding in findings:
        name, severity = finding["id"].split(" ")[0], finding["severity"]
        if severity in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL") and name not in EXPECTED_FINDINGS:
            check(False, f"testssl.sh: {finding['id']}", f"{severity} {finding['finding']}")
    for name, words in (
        ("SSLv2", "not offered"), ("SSLv3", "not offered"), ("TLS1", "not offered"), ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"), ("TLS1_3", "offered"), ("secure_client_renego", "not vulnerable"),
        ("CRIME_TLS", "not vulnerable"), ("heartbleed", "not vulnerable"), ("CCS", "not vulnerable"),
        ("ticketbleed", "not vulnerable"), ("ROBOT", "not vulnerable"), ("LUCKY13", "not vulnerable"), ("RC4", "not vulnerable"),
    ):  # fmt: skip
        found = next((finding["finding"] for finding in findings if finding["id"] == name), "not tried")
        check(found.startswith((words, "no RSA", "not offered", "supported")) or words in found, f"testssl.sh: {name} {words}", found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--only", choices=["conversations", "sessions", "mutations", "sslyze", "testssl"])
    parser.add_argument("--seed", type=int, help="of the mutations: what a run before has told")
    arguments = parser.parse_args()
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        origin = Server(("127.0.0.1", 0), Origin)
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        authority, port = make_certificates(folder), free_port()
        proxy = start_proxy(arguments.binary, folder, port, origin.server_port)
        parts = {
            "conversations": lambda: conversations.run(("127.0.0.1", port), str(authority), verdict.check),
            "sessions": lambda: sessions.run(("127.0.0.1", port), verdict.check, proxy.pid, Origin.targets),
            "mutations": lambda: mutations.run(("127.0.0.1", port), verdict.check, arguments.seed),
            "sslyze": lambda: sslyze(folder, port, verdict.check),
            "testssl": lambda: testssl(folder, port, verdict.check),
        }
        try:
            for name, part in parts.items():
                if arguments.only in (None, name):
                    print(f"{name}:")
                    part()
            verdict.check(proxy.poll() is None, "the proxy is still there")
            log = (folder / "stderr").read_text()
            verdict.check("panic" not in log, "the proxy did not panic", log)
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(timeout=40)
    print(f"{verdict.passed} passed, {verdict.failed} failed")
    return 0 if verdict.failed == 0 and verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
