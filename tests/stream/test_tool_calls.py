"""Tools called while the source arrives, and their results given back."""

import pytest
from tools_template import FILE_ITEM, Says, tokenizer_with_tools

from mlx_simul import Finished, Read, SimulSession, ToolCall, Write
from mlx_simul.errors import InvalidOptionError, PromptError, SessionClosedError
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import Shown, WaitK
from mlx_simul.serving.sessions import Sessions

CALL = '<tool_call>\n{"name": "file_item", "arguments": {"who": "Ann"}}\n</tool_call>'
SPOKEN = '{"name": "file_item", "arguments": {"who": "Ann"}}'
MODES = ["group", "reencode", "interleaved"]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_with_tools()


@pytest.fixture
def model(golden_models):
    return golden_models["qwen2-tiny-0"]


def options_of(says, **more):
    return {
        "tools": [FILE_ITEM],
        "logits_processors": [says],
        "policy": "wait-k:2",
        "max_target_source_ratio": None,
    } | more


def texts(events):
    return "".join(event.text for event in events)


def calls(events):
    return [event for event in events if isinstance(event, ToolCall)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("draft", [None, "ngram"])
def test_a_call_is_told_while_the_source_arrives_and_its_result_is_read(
    model, tokenizer, mode, draft
):
    says = Says(tokenizer)
    session = SimulSession(model, tokenizer, **options_of(says, mode=mode, draft=draft))
    asked = []
    run = session._engine.run
    session._engine.run = lambda request: asked.append(request) or run(request)

    assert calls(session.feed("Ann will write the report. ")) == []
    says.then(f"Noted.{CALL}")
    heard = session.feed("By Friday, please. ")
    (call,) = calls(heard)
    assert (call.call, call.name, call.arguments) == (0, "file_item", {"who": "Ann"})
    assert (call.written.strip(), call.error) == (SPOKEN, None)
    assert call.source_words_read < 9
    assert texts(heard) == "Noted."
    # Nothing more is said until the result is there.
    n_before = len(asked)
    session.tool_result(call, {"id": 7})
    says.then(" Filed as 7.")
    after = session.feed("Next. ") + session.finish()
    assert texts(after) == " Filed as 7."
    given = [request for request in asked[n_before:] if len(request.target_ids) > 1]
    assert len(given) == 1
    inserted = tokenizer.decode(list(given[0].target_ids[1:]))
    assert inserted.startswith('<|im_end|>\n<|im_start|>user\n<tool_response>\n{"id": 7}\n')
    assert inserted.endswith("<|im_start|>assistant\n")
    end = after[-1]
    assert end.target_text == "Noted. Filed as 7."
    assert (end.reason, end.target_words, len(end.delays)) == ("end_of_turn", 4, 4)
    events = [event for event in heard + after if isinstance(event, Write)]
    assert tuple(event.token for event in events) == end.token_ids


def test_what_is_inserted_is_read_as_if_it_had_been_rendered(model, tokenizer):
    """The predictions behind a result are those of a target that holds the same tokens."""

    class Notes(Says):
        def __init__(self, tokenizer):
            super().__init__(tokenizer)
            self.logits = []

        def __call__(self, tokens, logits):
            self.logits.append(logits)
            return super().__call__(tokens, logits)

    says = Notes(tokenizer)
    says.then(CALL)
    session = SimulSession(model, tokenizer, **options_of(says, policy="whole"))
    events = session.feed("Ann writes it.")
    session.close()
    for event in session.events():
        events.append(event)
        if isinstance(event, ToolCall):
            session.tool_result(event, "42")
            says.then("Done")
    behind = says.logits[-1]

    prompt = session._turns._prompt
    target = [*prompt.header_ids, *events[-1].token_ids]
    n_called = len(tokenizer.encode(CALL, add_special_tokens=False))
    target[len(prompt.header_ids) + n_called : len(prompt.header_ids) + n_called] = [
        *prompt.tool_result_ids(calls(events)[0], "42")
    ]
    other = SimulSession(model, tokenizer, **options_of(Says(tokenizer), policy="whole"))
    engine = other._engine
    source = [*prompt.prefix_ids]
    words = prompt.segmenter()
    for i, word in enumerate(words.feed("Ann writes it.") + words.finish()):
        source += prompt.encode_word(word, i == 0)
    notes = Notes(tokenizer)
    engine._logits_processors = (notes,)
    engine.run(Pass((*source, *prompt.suffix_ids), tuple(target)))
    assert abs(notes.logits[-1] - behind).max().item() < 1e-4
    # Negative control: without the result it would have been another prediction.
    engine.run(Pass((), tuple(target[-1:]), n_rewind=3))
    assert abs(notes.logits[-1] - behind).max().item() > 1e-2


def test_a_result_at_once_is_read_even_if_the_source_has_ended(model, tokenizer):
    says = Says(tokenizer)
    says.then(f"{CALL} and {CALL}")
    session = SimulSession(model, tokenizer, **options_of(says, policy="whole"))
    session.push("Ann writes it.")
    session.close()
    events = []
    for event in session.events():
        events.append(event)
        if isinstance(event, ToolCall):
            session.tool_result(event, f"{event.call}")
    assert [call.call for call in calls(events)] == [0, 1]
    assert events[-1].target_text == " and "
    with pytest.raises(SessionClosedError, match="result of 'file_item' came too late"):
        session.tool_result(calls(events)[0], "1")


def test_a_call_takes_one_result(model, tokenizer):
    says = Says(tokenizer)
    says.then(f"{CALL} ")
    session = SimulSession(model, tokenizer, **options_of(says))
    (call,) = calls(session.feed("Ann writes the report. "))
    session.tool_result(call, "1")
    with pytest.raises(InvalidOptionError, match=r"call 0 .* has its result already"):
        session.tool_result(call, "1")
    with pytest.raises(InvalidOptionError, match="call 1 of this stream was never made"):
        session.tool_result(ToolCall(1, "file_item", {}, ""), "1")


@pytest.mark.parametrize("text", [CALL, CALL[:-12]])
def test_a_result_is_read_where_an_early_end_of_turn_stops_the_stream(model, tokenizer, text):
    says = Says(tokenizer)
    says.then(text)
    options = options_of(says, early_eos="stop")
    session = SimulSession(model, tokenizer, **options)
    session.push("Ann writes the report. ")
    for event in session.events():
        if isinstance(event, ToolCall):
            session.tool_result(event, "1")
            says.then(" Done")
    assert event.target_text == " Done"


def test_a_result_for_a_call_that_a_limit_cut_off_comes_too_late(model, tokenizer):
    says = Says(tokenizer)
    says.then(f"Ann{CALL}")
    session = SimulSession(model, tokenizer, **options_of(says, max_tokens=12))
    events = []
    session.push("Ann writes the report. ")
    for event in session.events():
        events.append(event)
        if isinstance(event, ToolCall):
            with pytest.raises(SessionClosedError, match="call 0 came too late"):
                session.tool_result(event, "1")
    writes = [event for event in events if isinstance(event, Write)]
    assert (event.reason, event.target_text) == ("max_tokens", "Ann")
    assert (
        sum(write.word_complete for write in writes) == event.target_words == len(event.delays) == 1
    )


def test_a_last_word_that_looks_like_a_call_counts(model, tokenizer):
    says = Says(tokenizer)
    says.then("a <")
    session = SimulSession(model, tokenizer, **options_of(says))
    end = (session.feed("Ann writes the report. ") + session.finish())[-1]
    assert (end.target_text, end.target_words, len(end.delays)) == ("a <", 2, 2)


def test_a_call_that_the_turn_cuts_off_says_so_and_is_no_drought(model, tokenizer):
    says = Says(tokenizer)
    says.then(CALL[:-12])
    events = list(
        SimulSession(model, tokenizer, **options_of(says)).feed("Ann writes it and sends it off. ")
    )
    (call,) = calls(events)
    assert call.error is None  # all that is missing is its end
    says = Says(tokenizer)
    says.then(CALL[:30])
    session = SimulSession(model, tokenizer, **options_of(says))
    events = session.feed("Ann writes it and sends it off. ") + session.finish()
    (call,) = calls(events)
    assert (call.name, call.written) == ("", CALL[11:30])
    assert "JSONDecodeError" in str(call.error)
    assert events[-1].reason == "end_of_turn"
    session = SimulSession(model, tokenizer, **options_of(Says(tokenizer), tools=[]))
    assert session.feed("Ann writes it and sends it off. ")
    assert session.finish()[-1].reason == "drought"


def test_a_limit_in_the_middle_of_a_call_loses_nothing(model, tokenizer):
    says = Says(tokenizer)
    says.then(CALL)
    session = SimulSession(model, tokenizer, **options_of(says, max_tokens=12))
    events = session.feed("Ann writes it and sends it off. ") + session.finish()
    (call,) = calls(events)
    assert (call.name, events[-1].reason) == ("", "max_tokens")
    assert CALL.startswith(f"<tool_call>{call.written}")


def test_a_call_is_written_whole(model, tokenizer):
    """No source is read between its tokens, although it has many words."""
    says = Says(tokenizer)
    says.then(f"One two{CALL} three four five")
    session = SimulSession(model, tokenizer, **options_of(says, policy="wait-k:1"))
    events = session.feed("a b c d e f g h ") + session.finish()
    at = next(i for i, event in enumerate(events) if isinstance(event, ToolCall))
    reads = [i for i, event in enumerate(events[:at]) if isinstance(event, Read)]
    between = events[reads[-1] + 1 : at]
    assert all(isinstance(event, Write) for event in between)
    assert len(between) > 10
    assert events[-1].target_text == "One two three four five"
    assert events[-1].delays[:5] == (1, 2, 3, 4, 5)


def test_stops_and_calls(model, tokenizer):
    says = Says(tokenizer)
    says.then(f"Ann{CALL} does it STOP and more")
    session = SimulSession(model, tokenizer, stop=["STOP", "who"], **options_of(says))
    events = session.feed("a b c d e f g h ") + session.finish()
    assert (events[-1].target_text, events[-1].stop) == ("Ann does it ", "STOP")
    assert len(calls(events)) == 1


def test_a_call_is_told_behind_what_was_written_before_it_and_no_stop_reaches_over_it(
    model, tokenizer
):
    says = Says(tokenizer)
    says.then(f"Ann a{CALL}b ST{CALL}OP STOP")
    session = SimulSession(model, tokenizer, stop=["ab", "STOP"], **options_of(says))
    events = session.feed("a b c d e f g h i j k ") + session.finish()
    said = "".join(
        f"({event.call})" if isinstance(event, ToolCall) else event.text for event in events
    )
    assert said == "Ann a(0)b ST(1)OP "
    assert events[-1].target_text == "Ann ab STOP "
    writes = [event for event in events if isinstance(event, Write)]
    assert sum(write.word_complete for write in writes) == events[-1].target_words
    assert tuple(write.token for write in writes) == events[-1].token_ids


@pytest.mark.parametrize("mode", MODES)
def test_saved_and_restored_at_every_moment(tmp_path, model, tokenizer, mode):
    path, n_moments = tmp_path / "session", 0

    def play(moment):
        nonlocal n_moments
        says = Says(tokenizer)
        says.then(f"Ann{CALL} does it.")
        options = options_of(says, mode=mode)
        session, events, n = SimulSession(model, tokenizer, **options), [], 0
        inputs = ["a b c ", "d e f ", None]
        while True:
            if n == moment:
                session.save(path)
                session = SimulSession.restore(model, tokenizer, path, **options)
            n += 1
            step = session.advance()
            if step is None:
                if not inputs:
                    n_moments = n
                    return events
                text = inputs.pop(0)
                session.close() if text is None else session.push(text)
            elif isinstance(step, Pass):
                session.answer(session._engine.run(step))
            else:
                events.append(step)
                if isinstance(step, ToolCall):
                    session.tool_result(step, "42")

    wanted = play(None)
    assert len(calls(wanted)) == 1
    for moment in range(0, n_moments, 3):
        assert play(moment) == wanted


def test_in_a_batch_as_alone(model, tokenizer):
    def inputs():
        says = Says(tokenizer)
        says.then(f"Ann{CALL} does it.")
        return options_of(says)

    def handled(session, event):
        if isinstance(event, ToolCall):
            session.tool_result(event, "42")
        return event

    session = SimulSession(model, tokenizer, **inputs())
    session.push("a b c d e f g")
    session.close()
    alone = [handled(session, event) for event in session.events()]
    batch = Sessions(model, tokenizer)
    both = [batch.add(**inputs()), batch.add(**inputs())]
    said = {session: [] for session in both}
    for session in both:
        session.push("a b c d e f g")
        session.close()
    for session, event in batch.events():
        said[session].append(handled(session, event))
    assert [said[session] for session in both] == [alone, alone]
    assert isinstance(alone[-1], Finished)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"turns": "sentence"}, 'turns="sentence"'),
        ({"gpe_compat": True}, "gpe_compat"),
        ({"policy": "local-agreement:2"}, "LocalAgreement"),
        ({"stop": [5]}, "stops of token ids"),
        ({"num_beams": 2}, "beams"),
    ],
)
def test_what_does_not_go_with_tools_is_refused(model, tokenizer, options, says):
    with pytest.raises(InvalidOptionError, match=says):
        SimulSession(model, tokenizer, tools=[FILE_ITEM], **options)


def test_tools_may_be_any_iterable_that_json_can_say(model, tokenizer):
    once = SimulSession(model, tokenizer, tools=(tool for tool in [FILE_ITEM]))
    assert once.options.prompt.tools == (FILE_ITEM,)
    assert "file_item" in once._turns._prompt.prefix_text
    with pytest.raises(InvalidOptionError, match="schemas that JSON can represent"):
        SimulSession(model, tokenizer, tools=[FILE_ITEM | {"strict": 1j}])
    with pytest.raises(InvalidOptionError, match="holds calls too; leave one out"):
        policy = Shown(WaitK(2), heads=((0, 0),))
        SimulSession(model, tokenizer, tools=[FILE_ITEM], policy=policy).observe(print)


@pytest.mark.parametrize("tool", [{"name": "a"}, {"type": "function", "function": {}}, "a"])
def test_a_tool_is_a_schema(model, tokenizer, tool):
    with pytest.raises(InvalidOptionError, match="each of tools must be a schema"):
        SimulSession(model, tokenizer, tools=[tool])


def test_a_result_needs_tools_and_is_text_or_json(model, tokenizer):
    call = ToolCall(0, "file_item", {}, "")
    with pytest.raises(PromptError, match="give tools="):
        SimulSession(model, tokenizer).tool_result(call, "42")
    with pytest.raises(PromptError, match="with turns has no tools"):
        SimulSession(model, tokenizer, target_language="French").tool_result(call, "42")
    session = SimulSession(model, tokenizer, tools=[FILE_ITEM])
    with pytest.raises(InvalidOptionError, match="must be text or a value that JSON can represent"):
        session.tool_result(call, {1j})
    assert not SimulSession(model, tokenizer, tools=[FILE_ITEM], target_language="French").has_turns
