"""File action items while people speak: the model calls a tool before the meeting has ended.

python examples/meeting_assistant.py --model FOLDER_OR_REPOSITORY

The chat template of the model must know tools, as that of Qwen 2.5 or Qwen 3 does.
"""

import argparse

from mlx_simul import Read, SimulSession, ToolCall, load

MEETING = """\
Good morning. Ann, could you write the report? Yes, you will have it by Friday. Good. Then somebody
has to call the printer. I will do that today, says Bob. Thank you. Anything else? No. See you next
week."""

INSTRUCTION = (
    "Listen to the meeting. As soon as somebody takes on a task, file it with file_item. "
    "Do not answer in words."
)
FILE_ITEM = {
    "type": "function",
    "function": {
        "name": "file_item",
        "description": "Files an action item of the meeting.",
        "parameters": {
            "type": "object",
            "properties": {
                "who": {"type": "string", "description": "who has taken it on"},
                "what": {"type": "string", "description": "what is to be done"},
                "by": {"type": "string", "description": "until when"},
            },
            "required": ["who", "what"],
        },
    },
}


def assist(model, tokenizer, speech, **options):
    """Prints what is said and what is filed, and returns what was filed.

    Args:
        model: from load, like the tokenizer.
        tokenizer: likewise.
        speech: pieces of text, as they are recognised.
        **options: of the session.
    """
    items = []
    session = SimulSession(
        model,
        tokenizer,
        instruction=INSTRUCTION,
        tools=[FILE_ITEM],
        policy="wait-k:8",
        max_target_source_ratio=None,
        **options,
    )
    for piece in speech:
        session.push(piece)
        handle(session, items)
    session.close()
    handle(session, items)
    return items


def handle(session, items):
    """Runs a session as far as its source allows, and its tools."""
    for event in session.events():
        if isinstance(event, Read):
            print(event.source, end="", flush=True)
        elif isinstance(event, ToolCall):
            session.tool_result(event, file_item(event, items))


def file_item(call, items):
    """Files an item, and tells the model what it needs to know."""
    if call.error or not {"who", "what"} <= call.arguments.keys():
        return f"Nothing was filed: {call.error or 'who and what are required'}."
    items.append({"by": "open", **call.arguments})
    print("\n  -> {who}: {what} ({by})".format(**items[-1]))
    return {"filed_as": len(items)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    model, tokenizer = load(args.model)
    items = assist(model, tokenizer, MEETING.splitlines(keepends=True))
    print(f"\n{len(items)} items were filed." if items else "\nNo action item was filed.")


if __name__ == "__main__":
    main()
