"""Agents for SimulEval 1.1.4 (docs/simuleval.md); only its own command imports this.

``simuleval --agent-class mlx_simul.console.simuleval.MLXSimulAgent --model FOLDER …``
"""

# SimulEval is not there where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import sys
from operator import attrgetter

from simuleval.agents import TextToTextAgent
from simuleval.agents.actions import Action, ReadAction, WriteAction
from simuleval.data.dataloader import TextToTextDataloader
from simuleval.data.segments import EmptySegment, Segment, TextSegment
from simuleval.evaluator import SentenceLevelEvaluator
from simuleval.evaluator.instance import INSTANCE_TYPE_DICT, TextToTextInstance

from mlx_simul.console.options import add_session_arguments, load_sessions
from mlx_simul.serving.interpreter import Interpreter


class MLXSimulAgent(TextToTextAgent):
    """A model that streams, as SimulEval asks for one.

    Args:
        args: SimulEval's arguments and those of :meth:`add_args`.

    Raises:
        SimulError: for options or models that will not do.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._interpreter = Interpreter(load_sessions(args))
        super().__init__(args)

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Declare what ``mlx-simul translate`` takes, but for its source and its output."""
        add_session_arguments(parser)

    def reset(self) -> None:
        """Begin another sentence."""
        super().reset()
        self._interpreter.reset()
        self._n_heard = 0

    def policy(self) -> Action:
        """Hear what is new, and write what it completed; else read."""
        source = self.states.source
        answer = self._interpreter.answer(source[self._n_heard :], self.states.source_finished)
        self._n_heard = len(source)
        if answer.remark is not None:
            print(f"mlx-simul: warning: {answer.remark}", file=sys.stderr)
        if not answer.words and not answer.finished:
            return ReadAction()
        segment = EmptySegment(finished=answer.finished)
        if answer.words:
            # SimulEval's own could not be sent: its tgt_lang is not JSON.
            content = " ".join(answer.words)
            segment = TextSegment(content=content, finished=answer.finished, tgt_lang=None)
        self.states.update_target(segment)
        return WriteAction(segment, finished=answer.finished)


class RemoteText(TextToTextDataloader):
    """What ``simuleval --remote-eval`` needs to evaluate text.

    By itself SimulEval 1.1.4 fails there twice: it looks for the instances under a name that they
    no longer have, and a segment of text carries a ``tgt_lang`` that is not JSON. With
    ``--dataloader text --dataloader-class mlx_simul.console.simuleval.RemoteText`` it finds the
    instances, and each segment has the ``tgt_lang`` of its sentence.
    """

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> RemoteText:
        """Read ``--source`` and ``--target``, and choose instances that can be sent."""
        loader = super().from_args(args)
        args.target_type = "remote-text"
        INSTANCE_TYPE_DICT[f"{args.source_type}-{args.target_type}"] = _RemoteInstance
        SentenceLevelEvaluator.instance_iterator = property(attrgetter("iterator"))
        return loader


class _RemoteInstance(TextToTextInstance):
    def send_source(self, *options: object) -> Segment:
        segment = super().send_source(*options)
        segment.tgt_lang = self.tgt_lang
        return segment
