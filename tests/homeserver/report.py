"""Facts: each is checked once, printed as it is known, counted at the end."""

import contextlib
import threading
from collections.abc import Iterator


class Unmet(Exception):
    """What a fact says does not hold."""


def expect(holds: object, why: str) -> None:
    """Ends the fact under check as failed unless `holds`."""
    if not holds:
        raise Unmet(why)


class Scene:
    """What facts leave behind for later ones: users, rooms. What is missing fails who needs it, and says why."""

    def __getattr__(self, name: str) -> object:
        raise Unmet(f"needs `{name}`, which a fact before this one failed to make")


class Report:
    """Counts facts. Safe to use from several threads: slow facts run beside the others."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def fact(self, name: str) -> Iterator[None]:
        """The body of the `with` shows that `name` holds by not raising. Any exception is its failure, no more."""
        try:
            yield
        except Unmet as unmet:
            self._record(name, str(unmet))
        except Exception as error:
            self._record(name, f"{type(error).__name__}: {error}")
        else:
            self._record(name, None)

    def note(self, text: str) -> None:
        """A line for the reader: figures, progress."""
        with self._lock:
            print(f"# {text}", flush=True)

    def _record(self, name: str, why: str | None) -> None:
        with self._lock:
            assert name not in self.passed + self.failed, f"two facts are named {name}"
            if why is None:
                self.passed.append(name)
                print(f"ok {name}", flush=True)
            else:
                self.failed.append(name)
                print(f"FAILED {name}: {' '.join(why.split())[:WHY_CHARS_MAX]}", flush=True)

    def totals(self) -> str:
        """The closing line that CI reads."""
        return f"{len(self.passed)} passed, {len(self.failed)} failed"


# A body of megabytes may be part of an exception's text.
WHY_CHARS_MAX = 600
