"""The stages of a plan: what each processes, what it asks of GPU, cores and disk, and how long it takes."""

from dataclasses import dataclass, replace
from pathlib import Path

from ard.plan.machine import WRITE_GB_S, Machine


@dataclass(frozen=True)
class StagePlan:
    """One stage, or one part of it: what it processes (tokens of all epochs), and what it leaves on the disk."""

    stage: str
    part: str
    precision: str = ""  # of its products
    num_clips: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    present_bytes: int = 0  # of these, already there
    flops: int = 0  # of dense products
    traffic_bytes: int = 0  # of GPU memory, where it matters: weights, optimizer states, gathered rows, TopK
    gpu_bytes: int = 0  # at least: weights, optimizer states, the largest activation
    gpu_s: float = 0.0  # of the plan's GPU
    cpu_s: float = 0.0  # of one core: decoding, resampling, features, reading
    processes: int = 1  # that share what the cores do
    read_bytes: int = 0
    written_bytes: int = 0
    overlaps: bool = False  # GPU, cores and disk work at the same time, rather than one after another
    hours: float = 0.0  # on the plan's machine, as :meth:`on` has it
    cpu_hours: float = 0.0  # of these processes, at work at the same time
    disk_hours: float = 0.0
    layer: int | None = None  # None where all layers share the stage

    def on(self, machine: Machine) -> "StagePlan":
        """Return the stage with its hours on a machine with this GPU, and these cores and disk."""
        cpu_s = self.cpu_s / max(1, min(self.processes, machine.cores))
        disk_s = self.read_bytes / (machine.disk_gb_s * 1e9)
        disk_s += self.written_bytes / (min(machine.disk_gb_s, WRITE_GB_S) * 1e9)
        parts = self.gpu_s, cpu_s, disk_s
        seconds = max(parts) if self.overlaps else sum(parts)
        return replace(self, hours=seconds / 3600, cpu_hours=cpu_s / 3600, disk_hours=disk_s / 3600)

    @property
    def gpu_hours(self) -> float:
        """Hours of the GPU."""
        return self.gpu_s / 3600

    @property
    def missing_bytes(self) -> int:
        """What still has to be written."""
        return max(0, self.num_bytes - self.present_bytes)

    @property
    def longest(self) -> str:
        """What takes longest of a stage that takes time: the GPU, the CPU or the disk."""
        hours = {"GPU": self.gpu_hours, "CPU": self.cpu_hours, "disk": self.disk_hours}
        return max(hours, key=hours.__getitem__) if any(hours.values()) else ""


@dataclass(frozen=True)
class Change:
    """Something that would make a run shorter, and the hours that all of it would take then."""

    what: str
    hours: float


@dataclass(frozen=True)
class Plan:
    """The stages of a preset in order, the machine that they are planned for, and what was assumed."""

    stages: tuple[StagePlan, ...]
    machine: Machine
    faster: tuple[Change, ...]  # the one that saves most comes first
    disk: Path
    free_bytes: int
    num_clips: int  # of the probing set, like the next three
    num_tokens: int
    kind_of_tokens: str
    bytes_per_layer: int
    epochs: float  # how often an SAE's training sees the probing set
    assumptions: tuple[str, ...]

    @property
    def hours(self) -> float:
        """Hours on the machine, all stages one after another."""
        return sum(stage.hours for stage in self.stages)

    @property
    def missing_bytes(self) -> int:
        """What still has to be written, all layers together."""
        return sum(stage.missing_bytes for stage in self.stages)

    @property
    def missing_bytes_by_layer(self) -> int:
        """What still has to be written if each layer is finished and removed before the next: for the largest layer."""
        layers = {stage.layer for stage in self.stages} - {None}
        return max(sum(stage.missing_bytes for stage in self.stages if stage.layer in (None, one)) for one in layers)
