"""Trackers of a user's own, which behave well and badly. Found by a child process through PYTHONPATH."""

import atexit
import json
import os
import random
import signal
import sys
import time


class Keeping:
    """Keeps a line for each call in a file."""

    def __init__(self, run):
        self._path = run.events / "kept.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.token = run.token if self._path.exists() and run.token else f"{run.run_id} {time.time()}"
        self.keep(begin=[run.group, run.name, run.token, sorted(run.config)[:2], len(run.graph) > 0])

    def keep(self, **line):
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def log(self, epoch, values):
        self.keep(epoch=epoch, names=sorted(values))

    def end(self, state, reason):
        self.keep(state=state, reason=reason)


class Raising(Keeping):
    def log(self, epoch, values):
        raise RuntimeError("no room on the tracker's disk")


class LeavingAtTwo(Keeping):
    """Ends its process at epoch 2, the first time that it gets there."""

    def log(self, epoch, values):
        been = self._path.with_name("been")
        if epoch == 2 and not been.exists():
            been.touch()
            os._exit(3)
        super().log(epoch, values)


class AlwaysLeaving(Keeping):
    def log(self, epoch, values):
        os._exit(3)


class Exiting(Keeping):
    def log(self, epoch, values):
        sys.exit("enough")


class Hanging(Keeping):
    def log(self, epoch, values):
        self.keep(hangs=os.getpid())
        time.sleep(600)


class Rude(Keeping):
    """All that a library may do to the process that it is in."""

    def __init__(self, run):
        super().__init__(run)
        random.seed(0)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        atexit.register(time.sleep, 600)
        print("this is no result")
        print("nor is this", file=sys.stderr)
        os.write(1, b"nor this\n")
        self.keep(environment={name: os.environ.get(name) for name in ("WANDB_MODE", "DO_NOT_TRACK")})


NO_CLASS = 3
