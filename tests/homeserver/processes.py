"""Child processes that never outlive the run.

Each is ended by its process id when the run ends, however it ends; `setpriv --pdeathsig` covers the one way that
no handler sees, a SIGKILL of the run itself.
"""

import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable


class Processes:
    """All children, as a context manager: leaving it ends them."""

    def __init__(self, log_folder: pathlib.Path) -> None:
        self._log_folder = log_folder
        self._children: list[subprocess.Popen] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + TERM_S
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def start(self, name: str, command: list[object], **options: object) -> subprocess.Popen:
        """Starts `command` with its output appended to `NAME.log`. Call from the main thread only: the kernel ends the
        child when the thread that made it ends."""
        with open(self._log_folder / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                [*DIE_WITH_PARENT, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,
            )
        self._children.append(child)
        return child


def wait_until(what: str, done: Callable[[], bool], child: subprocess.Popen, seconds: float) -> None:
    """Waits for `done`; an early end of `child` is an error at once."""
    deadline = time.monotonic() + seconds
    while not done():
        if child.poll() is not None:
            raise RuntimeError(f"{what}: the process ended with code {child.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_S)


def accepts(address: tuple[str, int]) -> bool:
    """Whether something listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(address) == 0


def free_port(host: str) -> int:
    """A port that nothing listens on now, never the same twice. Another process may take it first: then its user fails
    to start and says so."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        if port not in PORTS_GIVEN:
            PORTS_GIVEN.add(port)
            return port


def end_run_on_signals() -> None:
    """SIGTERM and SIGHUP become exceptions, so that every `with` cleans up."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


class Overdue(BaseException):
    """The run took too long. No `Exception`: it ends the run, not only the fact that it meets."""


def limit_run(seconds: int) -> None:
    """A run longer than that ends as `Overdue`: nothing here may hang a CI."""

    def overdue(_number: int, _frame: object) -> None:
        raise Overdue(f"the run took more than {seconds} s")

    signal.signal(signal.SIGALRM, overdue)
    signal.alarm(seconds)


PORTS_GIVEN: set[int] = set()

# A homeserver that writes its last pages to SQLite needs a second or two.
TERM_S = 10.0
POLL_S = 0.02
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
