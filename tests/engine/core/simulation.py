"""A random driver of an engine over the paged fake: adds, aborts, stops and steps, each answer against a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.engine.core.paged_fake import EOS, AsyncPagedFake, PagedFake, reference
from tests.engine.core.state_checks import check_engine
from weft.base.errors import RequestError
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.outputs import FinishReason, RequestOutput
from weft.engine.core.seeds import output_seed


@dataclass(frozen=True, kw_only=True)
class World:
    """Sizes of one simulation. `crowd` is the number of live requests above which no more are added."""

    num_blocks: int
    block_size: int = 4
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 16
    max_model_len: int = 48
    dp: int = 1
    vocab: int = 6
    crowd: int = 12
    caching: bool = True
    seed: int = 0
    ahead: bool = False
    """Whether the ranks take a step before the current one is done."""
    stages: int = 1

    @property
    def config(self) -> EngineConfig:
        return EngineConfig(
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            block_size=self.block_size,
            enable_prefix_caching=self.caching,
            seed=self.seed,
        )


def random_world(random: Random, number: int, max_num_seqs: tuple[int, ...], *, ahead: bool, stages: int = 1) -> World:
    """World `number`: a pool from one request's worth to plenty, chunks from one token to whole prompts, one to three
    groups; `max_num_seqs`: of which one is drawn."""
    block_size, seqs = random.choice((1, 2, 4, 16)), random.choice(max_num_seqs)
    return World(
        num_blocks=max(2, random.choice((12, 20, 40, 60, 100, 400)) // block_size),
        block_size=block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=seqs + random.choice((0, 1, 7, 40)),
        dp=random.choice((1, 1, 2, 3)),
        vocab=random.choice((2, 6, 50)),
        caching=number % 6 != 5,
        seed=number,
        ahead=ahead,
        stages=stages,
        crowd=3 if number % (4 if stages > 1 else 3) == 1 else 12,
    )


@dataclass
class Expected:
    """An output that was asked for, and what has come of it."""

    tokens: list[int]
    finish: str
    stop_reason: int | str | None
    scored: list[int] | None = None
    """Prompt tokens that the first answer brings the log-probabilities of."""
    got: list[int] = field(default_factory=list)
    ended: FinishReason | None = None


class Simulation:
    """One engine's life. `check_state` False: only the answers are compared."""

    def __init__(self, world: World, seed: int, *, check_state: bool = True) -> None:
        self.world, self.random, self.check_state = world, Random(seed), check_state
        sizes = world.num_blocks, world.dp, world.vocab, world.stages
        self.fake = (AsyncPagedFake if world.ahead else PagedFake)(world.config, *sizes)
        self.engine = Engine(self.fake, world.config, EOS, vocab_size=world.vocab)
        self.expected: dict[tuple[str, int], Expected] = {}
        self.families = [self._ids(self._longest) for _ in range(3)]
        self.events: Counter[str] = Counter()
        self.admitted = 0
        self.oldest: dict[int, tuple[int, int]] = {}
        """Group -> (arrival of its oldest live output, step since when it is that)."""

    def run(self, events: int) -> None:
        """Random events, then steps until nothing is left."""
        while sum(self.events.values()) < events:
            self._event()
        self.drain()

    def drain(self) -> None:
        """Runs what is left; every output must have ended by then and every block be back."""
        for request_id in self.engine._live:
            self.engine.resume(request_id)
        for _ in range(self._patience * (len(self.expected) + 1)):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.engine.has_work, "requests that never end"
        assert all(each.ended for each in self.expected.values())
        stats = self.engine.stats().total
        assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
        assert stats.computed_tokens == self.engine.stats().rows == sum(self.fake.computed_rows)
        assert self.engine.stats().steps == self.engine.stats().step_tokens[-1] == self.fake.steps

    def add(self, request_id: str, prompt: Sequence[int], params: SamplingParams) -> bool:
        """Adds a request; False if it was refused, which must be for lack of room alone."""
        world, total = self.world, len(prompt) + (params.max_tokens or 1)
        needed = max(len(prompt), min(total, world.max_model_len) - 1)
        fits = len(prompt) < world.max_model_len and needed <= world.num_blocks * world.block_size
        try:
            self.engine.add_request(request_id, prompt, params)
        except RequestError:
            assert not fits, "refused for no reason"
            return False
        assert fits, "taken in though it cannot fit"
        for index in range(params.n):
            seed = output_seed(params.seed, world.seed, self.admitted, index)
            longest = min(world.max_model_len, world.num_blocks * world.block_size + 1)
            tokens, finish, stop_reason = reference(prompt, seed, params, EOS, longest, world.vocab)
            if self.fake.poison.get(seed, len(tokens)) < len(tokens):
                tokens, finish, stop_reason = tokens[: self.fake.poison[seed]], "error", None
            scored = None if params.prompt_logprobs is None else list(prompt[1:])
            self.expected[request_id, index] = Expected(tokens, finish, stop_reason, scored=scored)
        self.admitted += 1
        return True

    def step(self) -> list[RequestOutput]:
        """One engine step, its outputs compared, the state checked."""
        outputs = list(self.engine.step())
        assert self.engine.failure is None, self.engine.failure
        for output in outputs:
            self._compare(output)
        self._check_patience()
        return outputs

    @property
    def _patience(self) -> int:
        """Steps within which the oldest output of a group must end: its own, and those that hold its blocks."""
        return 4 * self.world.max_model_len

    def _event(self) -> None:
        live = len(self.engine._live)
        draw = self.random.random()
        if draw < 0.3 and live < self.world.crowd:
            self.events["add"] += self.add(f"r{self.admitted}", self._prompt(), self._params())
        elif draw < 0.31 and live < self.world.crowd:
            self.events["poison"] += self._add_poisoned()
        elif draw < 0.34 and live:
            self.events["abort"] += self._abort()
        elif draw < 0.36 and live:
            self.events["stop"] += self._stop()
        elif draw < 0.40 and live:
            self.events["pause"] += self._pause()
        else:
            self.events["step"] += self.engine.has_work
            self.step()
        if self.check_state:
            check_engine(self.engine)

    def _add_poisoned(self) -> bool:
        seed = 10_000 + self.admitted
        self.fake.poison[seed] = self.random.randrange(6)
        return self.add(f"r{self.admitted}", self._prompt(), SamplingParams(seed=seed, ignore_eos=True, max_tokens=7))

    def _abort(self) -> bool:
        request_id = self.random.choice(list(self.engine._live))
        for index in self.engine._live[request_id]:
            self.expected[request_id, index].finish = "abort"
        assert self.engine.abort(request_id) and not self.engine.abort(request_id)
        return True

    def _stop(self) -> bool:
        request_id = self.random.choice(list(self.engine._live))
        index = self.random.choice(list(self.engine._live[request_id]))
        expected = self.expected[request_id, index]
        expected.finish, expected.stop_reason = "stop", "END"
        return self.engine.stop_request(request_id, "END", index=index)

    def _pause(self) -> bool:
        """Pauses a request, or lets a paused one go on."""
        request_id = self.random.choice(list(self.engine._live))
        paused = [request.paused for request, _ in self.engine._live[request_id].values()]
        (self.engine.resume if any(paused) else self.engine.pause)(request_id)
        return True

    def _compare(self, output: RequestOutput) -> None:
        expected = self.expected[output.request_id, output.index]
        assert expected.ended is None, "an output after the last one"
        if output.prompt_logprobs or (output.new_token_ids and not expected.got and expected.scored is not None):
            assert [one.token_id for one in output.prompt_logprobs] == expected.scored and not expected.got
        expected.got += output.new_token_ids
        assert expected.got == expected.tokens[: len(expected.got)], "another token than alone"
        assert output.output_tokens == len(expected.got)
        if output.finish_reason is None:
            return
        expected.ended = output.finish_reason
        assert output.finish_reason == expected.finish
        if output.finish_reason != "abort":
            assert output.stop_reason == expected.stop_reason
        if output.finish_reason != "abort" and output.stop_reason != "END":
            assert expected.got == expected.tokens, "ended too early"

    def _check_patience(self) -> None:
        """The oldest live output of a group must not stay the oldest for ever."""
        for group, scheduler in enumerate(self.engine._coordinator.schedulers):
            live = [pair for outputs in self.engine._live.values() for pair in outputs.values()]
            mine = (request for request, owner in live if owner is scheduler and not request.paused)
            oldest = min((request.arrival for request in mine), default=-1)
            if oldest < 0 or self.oldest.get(group, (-1, 0))[0] != oldest:
                self.oldest[group] = oldest, self.fake.steps
            assert self.fake.steps - self.oldest[group][1] <= self._patience, "starved"

    def _ids(self, count: int) -> list[int]:
        return [self.random.randrange(self.world.vocab) for _ in range(count)]

    @property
    def _longest(self) -> int:
        """A little more than fits, so that some requests are refused."""
        return min(self.world.max_model_len, self.world.num_blocks * self.world.block_size) + 2

    def _prompt(self) -> list[int]:
        family = self.random.choice(self.families)
        shared = family[: self.random.randrange(self._longest)]
        return (shared + self._ids(self.random.randrange(6)))[: self._longest] or self._ids(1)

    def _params(self) -> SamplingParams:
        max_tokens = self.random.choice((None, 1, 5, 12, 30))
        return SamplingParams(
            n=self.random.choice((1, 1, 1, 1, 2, 3)),
            seed=self.random.choice((None, 1, 1, 2)),
            max_tokens=max_tokens,
            min_tokens=4 if max_tokens != 1 and self.random.random() < 0.1 else 0,
            ignore_eos=self.random.random() < 0.5,
            stop_token_ids=self.random.choice(((), (), (1,))),
            prompt_logprobs=self.random.choice((None, None, None, 0)),
        )
