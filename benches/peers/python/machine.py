"""What must be known and told of the machine, and whether other processes were at work on it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    cpu: str
    """The processor's model."""
    cpus: int
    """How many CPUs this process may use."""
    memory: int
    """Bytes."""
    kernel: str
    huge_pages: str
    """The system's setting for transparent huge pages."""

    @property
    def slug(self) -> str:
        """A short name for a folder: the processor's and the number of CPUs."""
        words = re.findall(r"[A-Za-z0-9]+", re.sub(r"\((R|TM)\)", " ", self.cpu))
        return "-".join([word.lower() for word in words if word not in ("CPU", "Processor")] + [f"{self.cpus}cpu"])


def this_machine() -> Machine:
    """This machine, as far as it says."""
    kib = found(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), "0")
    return Machine(
        cpu=found(r"^model name\s*: (.*)", read("/proc/cpuinfo"), "unknown").strip(),
        cpus=len(os.sched_getaffinity(0)),
        memory=int(kib) << 10,
        kernel=os.uname().release,
        huge_pages=found(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"), "unknown"),
    )


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def found(pattern: str, text: str, otherwise: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else otherwise


SLACK = 0.02
"""So many seconds are put down to rounding, and to what the kernel does for us in the background."""


@dataclass(frozen=True)
class CpuTime:
    """Seconds since the system's start."""

    busy: float
    """Of all CPUs, doing anything; also time that the hypervisor gave to others."""
    idle: float
    own: float
    """Of this process, and of those that it started and waited for."""

    @classmethod
    def now(cls) -> "CpuTime":
        # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these already.
        ticks = [int(field) for field in read("/proc/stat").partition("\n")[0].split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
        idle = sum(ticks[3:5]) / per_second
        return cls(sum(ticks) / per_second - idle, idle, sum(os.times()[:4]))

    def disturbed_since(self, earlier: "CpuTime") -> bool:
        """Whether others took more than a twentieth of the CPUs' time between `earlier` and now."""
        busy = self.busy - earlier.busy
        others = busy - (self.own - earlier.own)
        return others > SLACK + (busy + self.idle - earlier.idle) / 20
