"""What Linux tells: CPU time to the nanosecond, what else a core did, memory, packages."""

import ctypes
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Debian's packages by the command that each brings.
PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "caddy": "caddy", "wrk": "wrk", "strace": "strace",
            "openssl": "openssl", "taskset": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}

# sched.h
CLONE_NEWNET = 0x4000_0000

CONGESTION_CONTROL = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")


def install(commands):
    """Installs what is missing of these commands, by apt-get."""
    # Servers live in /usr/sbin, which is not on everybody's path.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = sorted({PACKAGES[command] for command in commands if not shutil.which(command)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        sys.exit(f"missing, and there is no apt-get to install them: {' '.join(missing)}")
    root = [] if os.geteuid() == 0 else ["sudo"]
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        subprocess.run([*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *arguments], check=True,
                       stdout=subprocess.DEVNULL)


def enter_network_of_its_own(congestion_control):
    """A network namespace with nothing but loopback, for this process and those that it starts."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWNET) != 0:
        sys.exit(f"--congestion-control needs a network namespace of its own: {os.strerror(ctypes.get_errno())}; run it as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        CONGESTION_CONTROL.write_text(congestion_control)
    except PermissionError:
        sys.exit(f"congestion control {congestion_control} is not for everybody here; allow it by "
                 f"sysctl net.ipv4.tcp_allowed_congestion_control='reno {congestion_control}'")
    except OSError as error:
        sys.exit(f"congestion control {congestion_control}: {error.strerror}; "
                 "sysctl net.ipv4.tcp_available_congestion_control tells which there are")


def raise_descriptor_limit():
    """As many descriptors as this user may have; told to the peers as well."""
    wanted = 65536
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted), max(hard, wanted)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], wanted)


@dataclass(frozen=True)
class Cores:
    """Who runs where: the proxy alone, the origin and the load on others, together where there are only two."""

    proxy: int
    origin: int
    load: int

    @staticmethod
    def choose():
        mine = sorted(os.sched_getaffinity(0))
        if len(mine) < 2:
            sys.exit("two cores are needed: one for the proxy alone, one for load and origin")
        return Cores(proxy=mine[0], origin=mine[1], load=mine[2] if len(mine) > 2 else mine[1])


def family(pid):
    """A process and its descendants: nginx serves from a child."""
    members = [pid]
    for member in members:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                members += map(int, pathlib.Path(f"/proc/{member}/task/{task}/children").read_text().split())
        except OSError:
            # It has ended since.
            pass
    return members


def cpu_ns(pids):
    """CPU time of processes in nanoseconds: all their threads, ended ones and the kernel's io_uring workers included.

    This is clock_getcpuclockid(3) of each, which glibc computes just so; Python has it for threads only.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


def queued_ns(pids):
    """How long threads of these processes were ready and did not run, in nanoseconds."""
    waited = 0
    for pid in pids:
        for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            waited += int(path.read_text().split()[1])
    return waited


def sleeps(pids):
    """How often threads of these processes have gone to sleep."""
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", path.read_text(), re.MULTILINE)[1])
               for pid in pids for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"))


def resident_bytes(pids):
    pages = sum(int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize()


def kernel_threads(core):
    """The kernel's threads that belong to a core and may work for the proxy: deferred softirqs and work queues.

    None inside of a container's own process ids.
    """
    try:
        children = pathlib.Path("/proc/2/task/2/children").read_text().split()
        names = {int(pid): pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
    except OSError:
        return []
    return [pid for pid, name in names.items() if name == f"ksoftirqd/{core}" or name.startswith(f"kworker/{core}:")]


def kernel_ns(threads):
    total = 0
    for pid in threads:
        try:
            total += int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        except OSError:
            # A work queue's thread that has ended.
            pass
    return total


@dataclass(frozen=True)
class CoreTime:
    """A line of /proc/stat in nanoseconds. Idle time is exact there, the rest is sampled by the timer."""

    idle: int
    interrupts: int
    steal: int

    @staticmethod
    def read(core):
        for line in pathlib.Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name == f"cpu{core}":
                _, _, _, idle, iowait, irq, softirq, steal, *_ = [
                    int(field) * 1_000_000_000 // TICKS_PER_SECOND for field in fields]
                return CoreTime(idle + iowait, irq + softirq, steal)
        raise ValueError(f"no core {core} in /proc/stat")


def interrupts_are_apart():
    """Whether this kernel takes interrupt time out of the time of the thread that it interrupts.

    Then the network's softirqs, most of what a proxy costs, are missing in process times and have to be taken from the core.
    """
    for path in (f"/boot/config-{platform.release()}", f"/lib/modules/{platform.release()}/config"):
        if pathlib.Path(path).exists():
            return "CONFIG_IRQ_TIME_ACCOUNTING=y" in pathlib.Path(path).read_text()
    if pathlib.Path("/proc/config.gz").exists():
        import gzip
        return b"CONFIG_IRQ_TIME_ACCOUNTING=y" in gzip.decompress(pathlib.Path("/proc/config.gz").read_bytes())
    return None


def describe(cores):
    model = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) // 1024
    return {
        "processor": model, "cores": os.cpu_count(), "memory_mib": memory, "kernel": platform.release(),
        "virtual": "hypervisor" in pathlib.Path("/proc/cpuinfo").read_text(),
        "core_of_proxy": cores.proxy, "core_of_origin": cores.origin, "core_of_load": cores.load,
        "interrupt_time_apart": interrupts_are_apart(),
        "congestion_control": CONGESTION_CONTROL.read_text().strip(),
    }
