"""What the verbs ask of a family of models, as functions; one module fills it in for each family.

A third family is a module beside `llama3_med.py` and `biomedgpt.py` and a line in `families.py`. `Spec` stands for the
family's own specification: the frozen dataclass in a run's model.json, whose class `Family.spec_type` names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jax.sharding import Mesh

from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.lint.material import Coded
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.eval.summary import Answered, Summary
from biomedgpt_jax.plan.compile import Shapes
from biomedgpt_jax.plan.prediction import Workload
from biomedgpt_jax.train.objectives import Objective
from biomedgpt_jax.train.recorder import Costs
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.progress import Advance

Spec = Any
Predicate = Callable[[str], bool]  # of the path of a parameter
Coder = Callable[[Sample, bool], Coded]  # a sample that is learned, or else asked, as the model reads it


@runtime_checkable
class Scorer(Protocol):
    """A prepared split with its questions, ready to be asked again and again."""

    @property
    def folder_name(self) -> str:
        """Of its results inside a run."""
        ...

    def __call__(
        self, model: ModelFns, params: Params, folder: Path, facts: dict[str, Any], advance: Advance
    ) -> tuple[Summary, list[Answered]]:
        """Writes predictions.jsonl and scores.json into `folder`; `facts` say which weights are asked."""
        ...


@dataclass(frozen=True)
class RunData:
    """The data of a run, planned from its first batch to its last, and what is asked of the model on the way."""

    num_steps: int
    said: str  # one line about it
    facts: Mapping[str, Any]  # JSON, kept beside the ledger
    objective: Objective  # may depend on the data, as on its list of answers
    batches: Callable[[range], Any]  # rows of each batch that this process reads -> a Grain iterator
    sample_name: Callable[[int], str]
    scorers: Sequence[Scorer]


@dataclass(frozen=True)
class Family:
    """All functions that take a configuration raise UsageError for settings that cannot be.

    `check` and `check_rows` look at settings alone and at settings with a mesh, `check_start` at the weights that are
    named; nothing large is read before they have passed.
    """

    title: str
    spec_type: type
    sections: tuple[str, ...]  # of its configuration, beside those of every training
    check: Callable[[Config], None]
    check_rows: Callable[[Config, Mesh], None]
    check_start: Callable[[Config, Spec], None]
    spec: Callable[[Config], Spec]
    build: Callable[[Config, Spec], ModelFns]
    trainable: Callable[[Config, Spec], Predicate]
    unused: Callable[[Config, Spec], Predicate]  # paths that the task may never reach with a gradient
    late: Predicate  # paths that begin behind a zero
    sees_images: Callable[[Config, Spec], bool]
    tokens_per_image: Callable[[Spec], int]  # of a row's tokens; 0 where images stand beside them
    objective: Callable[[Config, Spec], Objective]  # before there is data
    data: Callable[[Config, Spec, Mesh, Path], RunData]
    start: Callable[[Config, Spec, Mesh, Callable[[str], None]], Params]
    costs: Callable[[Config, Spec, Predicate], Costs]
    batch_shapes: Callable[[Config, Spec], Shapes]  # of the global batch
    workload: Callable[[Config, Spec, Predicate], Workload]
    weights: Callable[[Config], Mapping[str, str]]  # role -> folder of weights, or a name that is none
    describe: Callable[[Spec], str]
    padding: Callable[[Spec], Callable[[str], int]]  # path -> numbers of a parameter that only pad its layout
    coder: Callable[[Config, Spec, Path], Coder | None]  # for lint; None: what is learned of a row is drawn anew
    remat_part: str  # key of config.model.remat that a search tries
