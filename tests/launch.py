"""The processes of a Trainer, started with the environment that each of its launchers gives them."""

import multiprocessing
import os
import socket
import time

from torch.multiprocessing import start_processes

from ard.audiollm import AudioLLM
from ard.cli import main
from ard.naming.answers import Answers


def free_port():
    """A port for SLURM's rank 0, which is 15000 and the last four digits of the job's number, or any other's."""
    for port in range(15000 + os.getpid() % 9000, 25000):
        with socket.socket() as candidate:
            if candidate.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def one_node(size):
    """Ranks on one machine, as Lightning starts them."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**address, "LOCAL_RANK": str(rank)} for rank in range(size)]


def torchrun(size):
    """Nodes of one process each, as torchrun starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "GROUP_WORLD_SIZE": str(size)}
    return [{**shared, "RANK": str(rank), "GROUP_RANK": str(rank)} for rank in range(size)]


def slurm(size):
    """Nodes of one process each, as srun starts them."""
    shared = {"SLURM_JOB_ID": f"7{free_port() - 15000:04}", "SLURM_NODELIST": "localhost", "SLURM_LOCALID": "0"}
    shared |= {"SLURM_NTASKS": str(size), "SLURM_NNODES": str(size), "SLURM_NTASKS_PER_NODE": "1"}
    return [{**shared, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in range(size)]


def forked():
    """The processes of a server that has imported the libraries once, which takes seconds."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["ard.cli.lightning"])
    return processes


def on_ranks(function, size, *args):
    """Call a function with its rank, their number and more, in a process for each; fail as the first that fails."""
    forked()
    start_processes(function, (size, *args), nprocs=size, start_method="forkserver")


def start(target, *args, environments):
    """Start a function, which is also given its environment, in a process for each."""
    processes = forked()
    started = [processes.Process(target=target, args=(*args, environment)) for environment in environments]
    for process in started:
        process.start()
    return started


def finish(started):
    for process in started:
        process.join(120)
        assert process.exitcode == 0


def run_all(commands, notes, environment):
    """Run commands one by one, and note what this rank does: answers, captions, clips whose layers it captures.

    Captions take a while.
    """
    os.environ.update(environment)
    keep_all, capture = Answers.keep_all, AudioLLM.capture

    def noting(self, answers):
        time.sleep(0.02 if self.path.stem == "captions" else 0)
        keep_all(self, answers)
        for key in answers:
            note(self.path.stem, key)

    def capturing(self, clips, layers, *more):
        note("captured", len(clips))
        return capture(self, clips, layers, *more)

    def note(kind, done):
        with (notes / f"{kind}-{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(f"{done}\n")

    if notes is not None:
        Answers.keep_all, AudioLLM.capture = noting, capturing
    for command in commands:
        main(command)
