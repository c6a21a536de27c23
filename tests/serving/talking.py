"""A worker without MLX, which answers as the real one may: in any interleaving with commands."""

from collections import deque
from itertools import count

from mlx_simul.events import Finished, Read, TurnEnd, Write
from mlx_simul.serving.commands import (
    Change,
    Changed,
    Close,
    EndTurn,
    Opened,
    Push,
    Refused,
    Taken,
    TurnEnded,
)


class Echo:
    """Translates a word by its capitals; a turn ends behind a word with a full stop.

    What a turn says is a function of its words, as it is for sessions; when it does is open.

    Args:
        done: turns that an earlier life has ended and told; they are not run again.
    """

    def __init__(self, done=0):
        self.commands = deque()
        self.text, self.closed, self.finished = "", False, False
        self.turns = [[]]  # the words of each turn
        self.ended = []  # whether each has come to its end
        self.skip = done
        self.turn_ends = deque()
        self.n_words = self.words_done = self.turn = self.n_read = self.n_target = 0
        self.saying = deque()
        self.commit_numbers = count(1)

    # Commands

    def take(self):
        """Carry out the next command; its answers."""
        command = self.commands.popleft()
        said = []
        match command:
            case Push(text=text):
                self.text += text
                *whole, self.text = self.text.split(" ")
                self._add(whole)
            case EndTurn(number=number):
                assert number == next(self.commit_numbers)
                self._flush()
                self._end_turn()
                self.turn_ends.append((self.n_words, number))
                said += self._answered()
            case Change(options=options, event_id=name):
                refused = options.get("instruction") == "refuse me"
                said.append(Refused("no", "session", name) if refused else Changed(options, name))
            case Close():
                self._flush()
                self._end_turn()
                self.closed = True
        return [*said, Taken(self.n_words)]

    def _add(self, words):
        for word in filter(None, words):
            self.turns[-1].append(word)
            self.n_words += 1
            if word.endswith("."):
                self._end_turn()

    def _flush(self):
        self._add([self.text])
        self.text = ""

    def _end_turn(self):
        if self.turns[-1]:
            self.turns.append([])

    def _answered(self):
        while self.turn_ends and self.turn_ends[0][0] <= self.words_done:
            yield TurnEnded(self.turn_ends.popleft()[1])

    # What it says

    def say(self):
        """The next thing that it can say, as a list; empty if it waits for source."""
        words = self.turns[self.turn]
        if self.n_read < len(words):
            word = words[self.n_read]
            self.n_read += 1
            self.n_target += 1
            at = self.words_done + self.n_read
            said = [Read(" " + word, 1, at), Write(1, " " + word.upper(), True, at, self.n_target)]
            return [] if self.turn < self.skip else said
        if self.turn < len(self.turns) - 1:
            first = self.words_done
            self.words_done += len(words)
            self.n_read = 0
            self.turn += 1
            span = (first, self.words_done)
            text = " ".join(words)
            end = TurnEnd(
                self.turn - 1, text, text.upper(), span, span, (), (), "sentence", "end_of_turn"
            )
            return [*([] if self.turn <= self.skip else [end]), *self._answered()]
        if self.closed and not self.finished:
            self.finished = True
            n_words = self.n_words
            return [Finished("end_of_turn", (), "", (), n_words, n_words, self.turn)]
        return []

    @property
    def can_say(self):
        at_word = self.n_read < len(self.turns[self.turn])
        return at_word or self.turn < len(self.turns) - 1 or (self.closed and not self.finished)

    def reopened(self, commands, done):
        """A new life on the journal of this one, and its first answers."""
        life = Echo(done)
        life.commands.extend(commands)
        n_chars = sum(len(command.text) for command in commands if isinstance(command, Push))
        n_ends = sum(isinstance(command, EndTurn) for command in commands)
        answers = []
        while life.commands:  # a journal's text is there at once
            answers += [answer for answer in life.take() if isinstance(answer, TurnEnded)]
        answers.insert(0, Opened({}, n_chars, n_ends, life.closed))
        while life.turn < done:
            answers += life.say()
        return life, answers
