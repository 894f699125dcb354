"""An executor that answers as an agent's model would: it calls the agent's shell, reads the result, and says it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.fakes.fake_executor import ScriptedExecutor
from tests.support.tiny_chat import END
from weft.base.step.plan import Sampled, ScheduledRequest, StepPlan, StepResult
from weft.engine.text import Tokenizer

COMMAND = "echo weft-$((40+2))"
RESULT = "weft-42"
"""What the command prints: it stands in no request before the command was run."""
SAID = f"The shell said {RESULT}."
SHELLS: dict[str, dict[str, Any]] = {
    "exec_command": {"cmd": COMMAND},
    "shell_command": {"command": COMMAND},
    "run_shell_command": {"command": COMMAND, "description": "Prints.", "is_background": False},
    "Bash": {"command": COMMAND, "description": "Prints."},
    "bash": {"command": COMMAND, "description": "Prints."},
}
"""Tools of agents that run a command, and arguments of a call."""
EDIT = "hello.txt\n```\n<<<<<<< SEARCH\n=======\nHello from weft\n>>>>>>> REPLACE\n```\n"


def reply(prompt: str) -> str:
    """To a rendered conversation."""
    last = prompt.split("<|im_start|>")[-2]
    if RESULT in last:
        return SAID
    if "<tool_response>" in last:
        return f"The shell did not say it: {last[-500:]}"
    if "SEARCH/REPLACE" in prompt:
        return EDIT
    for name, arguments in SHELLS.items():
        if f'"name": "{name}"' in prompt:
            return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
    return '{"title": "Greeting", "next_speaker": "user"}' if "JSON" in prompt else "A greeting"


class AgentExecutor(ScriptedExecutor):
    """`tokenizer`: of the served model. `prompts`: all so far."""

    def __init__(self, tokenizer: Tokenizer, script: list[int], **more: Any) -> None:
        super().__init__(script, **more)
        self._tokenizer, self._scripts = tokenizer, dict[int, list[int]]()
        self.prompts: list[str] = []

    def step(self, plan: StepPlan) -> StepResult:
        """Each new request gets the reply to its own prompt."""
        for group in plan.groups:
            for new in group.new_requests:
                self.prompts.append(b"".join(self._tokenizer.token_bytes(id) for id in new.prompt_ids).decode())
                self._scripts[new.slot] = [*self._tokenizer.encode(reply(self.prompts[-1])), END]
        return super().step(plan)

    def _answer(self, run: ScheduledRequest) -> Sampled:
        self.script = self._scripts[run.slot]
        return super()._answer(run)
