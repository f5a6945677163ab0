"""TensorBoard: event files in the run's folder. A process that goes on with a run adds a file of its own.

The files are written with TensorBoard's own records, at once, and without its queue: an error of the disk is one here.
"""

import io
import os
import socket
import time
from collections.abc import Iterable, Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from kdhpc.tracking.run import State, TrackedRun

_PREFIX = "events.out.tfevents."
_VERSION = "brain.Event:2"


class TensorBoard:
    """Scalars over epochs, and as texts: config, graph, versions, how it ended."""

    def __init__(self, run: TrackedRun) -> None:
        run.events.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in run.events.glob(f"{_PREFIX}*"))
        goes_on = run.token in names
        # Files are read by name. The first number is the time; the clock of another machine may be behind.
        last = max((_number(name) for name in names), default=0)
        name = f"{_PREFIX}{max(int(time.time()), last + 1):010d}.{socket.gethostname()}.{os.getpid()}"
        self.token = str(run.token) if goes_on else name
        self._path = run.events / name
        self._write([Event(wall_time=time.time(), file_version=_VERSION)])
        self._is_begun = False
        if not goes_on:
            self._write(_text(tag, text) for tag, text in _texts(run).items() if text)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write an epoch's scalars."""
        now = time.time()
        # Readers drop what an earlier file has of this epoch and of later ones: a crash may have come between the
        # writing of an epoch and the writing down that it is written.
        begin = [] if self._is_begun else [SessionLog(status=SessionLog.START)]
        events = [Event(wall_time=now, step=epoch, session_log=session) for session in begin]
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write([*events, Event(wall_time=now, step=epoch, summary=Summary(value=scalars))])
        self._is_begun = True

    def end(self, state: State, reason: str) -> None:
        """Write how it ended."""
        if state != "lost":
            self._write([_text("state", f"{state}: {reason}" if reason else state)])

    def _write(self, events: Iterable[Event]) -> None:
        """Append events: all of them, or nothing, as readers stop at half a record."""
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        content = buffer.getvalue()
        with self._path.open("ab", buffering=0) as file:
            end, written = file.tell(), 0
            try:
                while written < len(content):
                    written += file.write(content[written:])
            except OSError:
                file.truncate(end)
                raise


def _number(name: str) -> int:
    digits = name.removeprefix(_PREFIX).partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def _texts(run: TrackedRun) -> dict[str, str]:
    return {
        "config": _table(run.config),
        "made with": _table(run.made_with),
        "graph": "\n".join(f"    {line}" for line in run.drawing.splitlines()),
        "graph as JSON": "\n".join(f"    {line}" for line in run.graph.splitlines()),
    }


def _table(values: Mapping[str, str | int | float]) -> str:
    """In Markdown."""
    rows = (f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in values.items())
    return "\n".join(["| key | value |", "|---|---|", *rows])


def _text(tag: str, text: str) -> Event:
    """A text, which the text plug-in shows."""
    plugin = SummaryMetadata.PluginData(plugin_name="text", content=TextPluginData(version=0).SerializeToString())
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
    value = Summary.Value(tag=f"{tag}/text_summary", metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
    return Event(wall_time=time.time(), summary=Summary(value=[value]))
