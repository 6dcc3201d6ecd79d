"""What TensorBoard, Weights & Biases, Trackio, MLflow and CSV files are given."""

import io
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from vitals.measures.histogram import Histogram
from vitals.writers.writer import Writer, pixels


class CSVWriter(Writer):
    """Numbers alone."""

    def where(self, shown: Callable[[Path], str] = str) -> str:
        return shown(Path(self.logger.experiment.metrics_file_path))


class TensorBoardWriter(Writer):
    """Every curve over its own axis; several numbers as one event; no tables, whose cells its card breaks."""

    def scalars(self, values: Mapping[str, float], step: int, epoch: float | None = None) -> None:
        # Others have an axis `epoch` by this very name; here it would be a group by itself.
        named = {"run/epoch" if tag == "epoch" else tag: value for tag, value in values.items()}
        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in named.items()]
        event = Summary(value=entries)
        self.logger.experiment._get_file_writer().add_summary(event, step if epoch is None else int(epoch))

    def image(self, tag: str, picture: np.ndarray | Tensor, step: int) -> None:
        self.logger.experiment.add_image(tag, picture, step)

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        figures = found.smallest, found.largest, sum(found.counts), found.total, found.squares
        self.logger.experiment.add_histogram_raw(tag, *figures, found.edges[1:], found.counts, step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.experiment.add_text(tag, markdown, step)

    def charts(self, charts: Mapping[str, Any]) -> None:
        self.logger.experiment.add_custom_scalars(charts)

    def where(self, shown: Callable[[Path], str] = str) -> str:
        return shlex.join(["tensorboard", "--logdir", shown(Path(self.logger.log_dir))])


class WandbWriter(Writer):
    """One row a call, which holds its own x-axes: `trainer/global_step`, as WandbLogger has it, and `epoch`.

    Weights & Biases drops what is given for a step before the last, so its own steps only count the rows.
    """

    package: ClassVar[str] = "wandb"

    def scalars(self, values: Mapping[str, float], step: int, epoch: float | None = None) -> None:
        if epoch is None:
            self.log(dict(values), step)
            return
        for tag in values:
            self.logger.experiment.define_metric(tag, step_metric="epoch")
        self.log({**values, "epoch": epoch}, step)

    def log(self, row: dict[str, Any], step: int) -> None:
        """Write one row."""
        self.logger.experiment.log({**row, "trainer/global_step": step})

    def image(self, tag: str, picture: np.ndarray | Tensor, step: int) -> None:
        self.log({tag: self._made("Image", pixels(picture))}, step)

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        bins = np.array(found.counts, dtype=np.int64), np.array(found.edges)
        self.log({tag: self._made("Histogram", np_histogram=bins)}, step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.log({tag: self._made("Html", f"<pre>{escape(markdown)}</pre>")}, step)

    def table(self, tag: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self.log({tag: self._made("Table", columns=list(columns), data=[list(row) for row in rows])}, step)

    def alert(self, title: str, text: str) -> None:
        self.logger.experiment.alert(title, text, level=import_module(self.package).AlertLevel.ERROR)

    def where(self, shown: Callable[[Path], str] = str) -> str:
        run = self.logger.experiment
        if not getattr(run, "offline", False):
            return run.url or ""
        return shlex.join(["wandb", "sync", shown(Path(run.dir).parent)])

    def _made(self, kind: str, *content: Any, **named: Any) -> Any:
        return getattr(import_module(self.package), kind)(*content, **named)


class TrackioWriter(WandbWriter):
    """The same calls; steps may come in any order here, and an epoch stands beside them."""

    package = "trackio"

    def scalars(self, values: Mapping[str, float], step: int, epoch: float | None = None) -> None:
        self.log({**values, **({} if epoch is None else {"epoch": epoch})}, step)

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logger.experiment.log(row, step=step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.log({tag: self._made("Markdown", markdown)}, step)

    def alert(self, title: str, text: str) -> None:
        with redirect_stdout(io.StringIO()):  # the terminal has been told
            super().alert(title, text)

    def where(self, shown: Callable[[Path], str] = str) -> str:
        return shlex.join(["trackio", "show", "--project", self.logger.name])


class MLFlowWriter(Writer):
    """Numbers over their own axes; pictures as its images; text, tables and distributions as artifacts; an
    alert is a tag of the run."""

    def scalars(self, values: Mapping[str, float], step: int, epoch: float | None = None) -> None:
        self.logger.log_metrics(dict(values), step if epoch is None else int(epoch))

    def image(self, tag: str, picture: np.ndarray | Tensor, step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, pixels(picture), key=_allowed(tag), step=step)

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        content = {"edges": found.edges, "counts": found.counts}
        file = f"histograms/{_allowed(tag)}/{step:08}.json"
        self.logger.experiment.log_dict(self.logger.run_id, content, file)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, markdown, f"{_allowed(tag)}.md")

    def table(self, tag: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        content = {name: list(cells) for name, cells in zip(columns, zip(*rows, strict=True), strict=False)}
        self.logger.experiment.log_table(self.logger.run_id, content, f"{_allowed(tag)}.json")

    def alert(self, title: str, text: str) -> None:
        self.logger.experiment.set_tag(self.logger.run_id, f"alert.{_allowed(title)}", text)

    def where(self, shown: Callable[[Path], str] = str) -> str:
        return shlex.join(["mlflow", "ui", "--backend-store-uri", self.logger._tracking_uri])


def _allowed(tag: str) -> str:
    """`tag` without the signs that MLflow refuses in names."""
    return re.sub(r"[^\w/. -]+", "_", tag, flags=re.ASCII)
