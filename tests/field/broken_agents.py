"""Agents that SimulEval runs as happily as the right one, and that its log must betray."""

from mlx_simul.console.simuleval import MLXSimulAgent


class Early(MLXSimulAgent):
    """Stays one word less behind than it was told."""

    def __init__(self, args):
        name, k = args.policy.split(":")
        args.policy = f"{name}:{int(k) - 1}"
        super().__init__(args)


class Late(MLXSimulAgent):
    """Hears each word when the next one comes."""

    def policy(self):
        source = self.states.source
        if not self.states.source_finished:
            self.states.source = source[:-1]
        action = super().policy()
        self.states.source = source
        return action


class CutsWords(MLXSimulAgent):
    """Writes what is no whole word yet."""

    def policy(self):
        action = super().policy()
        if not action.is_read():
            action.content.content = " ".join(action.content.content)
        return action


class NeverResets(MLXSimulAgent):
    """Goes on with the session of the sentence before."""

    def reset(self):
        interpreter = self._interpreter
        self._interpreter = _Deaf()
        super().reset()
        self._interpreter = interpreter


class _Deaf:
    def reset(self):
        pass
