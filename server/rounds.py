"""A run: gather the sites, round after round, measure the final model. It never waits for ever, and can be resumed.

In a round every ready site gets one message and answers once; the round closes when all have answered or its deadline
is past. What is wrong with an answer concerns its site alone. After each round everything is on disk before the next
begins.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from flwr.serverapp import Grid

from client.contract import EVALUATE, TRAIN, EvaluateReply, EvaluateRequest, PrepareRequest, TrainReply, TrainRequest
from client.exchange.settings import named_exchange
from client.weights import Weights
from segformer3d.checkpoint import save_weights
from segformer3d.errors import FederationError
from segformer3d.files import write_json
from segformer3d.training_reports import ValidationReport
from server.aggregation import AggregationState, Diagnostics, apply, common_control, final_weights, init
from server.downlink import Delivery, NextModel, next_model
from server.exchange import Exchange, Question, Received, read_evaluate, read_train
from server.federation import FederationSettings, model_notes
from server.mailbox import Audit, Mailbox
from server.pace import Pace
from server.pulling import AT_ONCE, Pulling
from server.records import (
    OnEvent,
    RoundFinished,
    RoundRecord,
    RoundStarted,
    RunFinished,
    RunRecord,
    Score,
    SiteRecord,
    SiteSetAside,
    SitesReady,
    append_round,
    begin_rounds,
    last_counted,
    plain,
    score,
)
from server.replies import SetAside, longest_update, set_aside_outliers
from server.roster import Member, Roster
from server.run_folder import newest_state
from server.state import Best, ServerState, check_resumable, read_state, write_state
from server.traffic import Traffic

_OF_STRATEGY = "strategy/"  # what a strategy remembers, in the state's memory
BEST_FILE, LAST_FILE, RESULT_FILE = "best.safetensors", "last.safetensors", "result.json"


class Federation:
    """One run of a federation over a Grid.

    Args:
        grid: Flower's way to the sites.
        settings: of the federation.
        folder: the run folder: states, `rounds.jsonl`, the best and the last model, `result.json`.
        state: where to begin: `server.state.begin(...)`, or one that was read to resume.
        on_event: told what happens, as it happens.
        registered: the name under which a node may take part, see `server.roster.Roster`.
        audit: told of every message, see `server.mailbox.Mailbox`.
        pulling: how replies are fetched.
    """

    def __init__(
        self,
        grid: Grid,
        settings: FederationSettings,
        folder: Path,
        state: ServerState,
        on_event: OnEvent,
        registered: Callable[[int], str | None] | None = None,
        audit: Audit | None = None,
        pulling: Pulling = AT_ONCE,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._state = state
        self._emit = on_event
        self._set_aside: list[SetAside] = []
        self._traffic = Traffic(audit)
        mailbox = Mailbox(grid, self._traffic.message, pulling)
        request = PrepareRequest(state.run, settings.task, settings.rounds, settings.privacy)
        self._roster = Roster(
            mailbox,
            request,
            settings.minimum_sites,
            settings.prepare_deadline_s,
            self._put_aside,
            registered,
            settings.again_s,
        )
        self._pace = Pace(settings.pace, state.history)
        self._holds: dict[int, str] = {}  # by node, the digest of the model of its last request
        self._exchange = Exchange(mailbox, self._roster, self._put_aside, on_event)

    def run(self) -> RunRecord:
        """The whole run, from the state it was given to the final model's score.

        Raises:
            FederationError: too few sites answer; the state of the last complete round is on disk.
            CheckpointError: the state does not belong to these settings or this folder.
            StorageError: the run folder cannot be written.
        """
        self._take_folder()
        members = self._roster.gather(settle=True)
        self._emit(SitesReady(tuple(member.ready for member in members)))
        while self._state.round < self._settings.rounds:
            self._play_round(members)
            if self._state.round < self._settings.rounds:
                members = self._roster.gather(settle=False)
        return self._finish()

    def _take_folder(self) -> None:
        check_resumable(self._state, self._settings)
        newest = newest_state(self._folder)
        if newest is None:
            write_state(self._folder, self._state)
        else:
            found = read_state(newest)
            if (found.run, found.round) != (self._state.run, self._state.round):
                there = f"{self._folder} holds run {found.run} after round {found.round}"
                raise FederationError(f"{there}; resume it, or choose another folder")
        begin_rounds(self._folder, self._state.history)

    def _play_round(self, members: Sequence[Member]) -> None:
        began = time.perf_counter()
        number = self._state.round + 1
        self._emit(RoundStarted(number, self._settings.rounds, tuple(member.site for member in members)))
        model = self._next_model()
        received = self._exchange.ask(self._train_question(number, model, members), members)
        for item in received:
            self._pace.note(item.reply.site, item.seconds)
        self._note_holders(model.digest, members, {item.reply.site for item in received})
        kept = self._keep(number, received)
        measured = self._measured({item.reply.site: item.reply.validation for item in kept})
        with ThreadPoolExecutor(1) as beside:  # the sites wait for both
            saved = beside.submit(self._keep_best, measured, self._state.weights)
            averaging = time.perf_counter()
            averaged, diagnostics = apply(
                self._aggregation(),
                [item.reply for item in kept],
                self._settings.strategy,
                len(self._everybody(members)),
            )
            seconds = time.perf_counter() - averaging
            best = saved.result()
        down, up = self._traffic.take()
        record = RoundRecord(
            round=number,
            seconds=time.perf_counter() - began,
            aggregation_seconds=seconds,
            step_norm=diagnostics.step_norm,
            agreement=diagnostics.agreement,
            measured=measured,
            sites=tuple(_site_record(item, diagnostics) for item in kept),
            set_aside=tuple(self._set_aside),
            bytes_down=down,
            bytes_up=up,
        )
        self._complete(record, averaged, best, model.memory)

    def _note_holders(self, digest: str, members: Sequence[Member], answered: Collection[str]) -> None:
        """Who has a model now: whoever was there for it, though the answer was late or wrong.

        One that was not says so when the next change comes, and gets that model whole.
        """
        if not digest:
            return
        there = {member.node for member in self._roster.online()}
        asked = (member.node for member in members if member.node in there or member.site in answered)
        self._holds.update(dict.fromkeys(asked, digest))

    def _everybody(self, members: Sequence[Member]) -> set[str]:
        """All sites that have ever been in the run: what strategies remember of one stays while it is away."""
        return {*last_counted(self._state.history), *(member.site for member in members)}

    def _keep(self, number: int, received: list[Received[TrainReply]]) -> list[Received[TrainReply]]:
        """Without outliers, and enough of them."""
        kept, outliers = set_aside_outliers([item.reply for item in received], TRAIN)
        for outlier in outliers:
            self._put_aside(outlier)
        if len(kept) < self._settings.minimum_sites:
            why = "; ".join(f"{item.site}: {item.reason}" for item in self._set_aside)
            raise FederationError(
                f"round {number} got {len(kept)} good replies of at least {self._settings.minimum_sites} ({why}); "
                f"the state after round {self._state.round} is kept: repair the sites and resume the run"
            )
        sites = {reply.site for reply in kept}
        return [item for item in received if item.reply.site in sites]

    def _aggregation(self) -> AggregationState:
        return aggregation_of(self._state, self._settings)

    def _complete(
        self, record: RoundRecord, averaged: AggregationState, best: Best | None, held: Mapping[str, Weights]
    ) -> None:
        """The state first: `rounds.jsonl` can be written again from it."""
        self._state = replace(
            self._state,
            round=record.round,
            weights=averaged.weights,
            best=best,
            history=(*self._state.history, plain(record)),
            memory={**held, **{_OF_STRATEGY + name: part for name, part in averaged.memory.items()}},
        )
        write_state(self._folder, self._state)
        append_round(self._folder, self._state.history[-1])
        self._set_aside.clear()
        self._emit(RoundFinished(record))

    def _finish(self) -> RunRecord:
        """Save the final model, have it measured by whoever is still there, and close the books."""
        last = final_weights(self._aggregation())
        self._save_model(LAST_FILE, last, None)
        private = self._settings.privacy is not None  # nothing pays for what a measurement would say
        members = () if private else self._roster.online()
        received = self._exchange.ask(self._evaluate_question(last, members), members) if members else []
        reports = {item.reply.site: item.reply.validation for item in received}
        final = self._measured(reports)
        best = self._keep_best(final, last)
        told = (self._state.run, self._state.round, final, best, reports, tuple(self._set_aside))
        record = RunRecord(*told, *self._traffic.take())
        write_json(self._folder / RESULT_FILE, {**plain(record), **model_notes(self._settings)})
        self._emit(RunFinished(record))
        return record

    def _next_model(self) -> NextModel:
        return next_model(self._state.weights, self._state.memory, named_exchange(self._settings.exchange))

    def _holders(self, members: Sequence[Member]) -> dict[str, str]:
        return {member.site: self._holds.get(member.node, member.ready.holds) for member in members}

    def _train_question(self, number: int, model: NextModel, members: Sequence[Member]) -> Question[TrainReply]:
        settings, state = self._settings, self._state
        request = TrainRequest(
            state.run,
            number,
            settings.rounds,
            settings.local_epochs,
            settings.seed,
            settings.task,
            settings.training,
            model.weights,
            settings.privacy,
            settings.strategy.rule,
            common_control(self._aggregation(), len(self._everybody(members))),
            named_exchange(settings.exchange),
        )
        longest = cache(partial(longest_update, state.weights))  # not worked out before the sites are at work
        read = partial(read_train, request=request, digest=model.digest, longest=longest)
        follows = settings.strategy.rule.follows or not request.exchange.plain
        counted = last_counted(state.history) if follows else None
        delivery = Delivery(model, request.encode, self._holders(members), counted)
        return Question(TRAIN, number, delivery, settings.round_deadline_s, self._pace, settings.again_s, read)

    def _evaluate_question(self, last: Weights, members: Sequence[Member]) -> Question[EvaluateReply]:
        settings, state = self._settings, self._state
        model = next_model(last, state.memory, named_exchange(settings.exchange))
        request = EvaluateRequest(state.run, state.round, settings.task, model.weights, settings.strategy.rule)
        read = partial(read_evaluate, request=request)
        delivery = Delivery(model, request.encode, self._holders(members))
        return Question(EVALUATE, state.round, delivery, settings.round_deadline_s, self._pace, settings.again_s, read)

    def _measured(self, reports: Mapping[str, ValidationReport]) -> Score:
        """What sites measured belongs to the model they were sent: that of the state, before this round's averaging."""
        return score(self._state.round, reports, len(self._settings.task.structures))

    def _keep_best(self, measured: Score, weights: Weights) -> Best | None:
        """Save the model that was measured if it scored better than any before it."""
        best = self._state.best
        if math.isnan(measured.mean_dice) or (best is not None and measured.mean_dice <= best.dice):
            return best
        self._save_model(BEST_FILE, weights, measured.mean_dice)
        return Best(measured.round, measured.mean_dice)

    def _save_model(self, name: str, weights: Weights, dice: float | None) -> None:
        state, task = self._state, self._settings.task
        told = {"run": state.run, "round": state.round, "validation_dice": dice}
        notes = {**told, **model_notes(self._settings)}
        save_weights(self._folder / name, weights, task.model, task, notes)

    def _put_aside(self, what: SetAside) -> None:
        self._set_aside.append(what)
        self._emit(SiteSetAside(self._state.round + 1, what))


def aggregation_of(state: ServerState, settings: FederationSettings) -> AggregationState:
    """The strategy's part of a run's state."""
    kept = {n.removeprefix(_OF_STRATEGY): part for n, part in state.memory.items() if n.startswith(_OF_STRATEGY)}
    return AggregationState(state.weights, kept) if kept else init(state.weights, settings.strategy)


def _site_record(item: Received[TrainReply], diagnostics: Diagnostics) -> SiteRecord:
    reply, training, validation = item.reply, item.reply.training, item.reply.validation
    return SiteRecord(
        site=reply.site,
        cases=training.cases,
        samples=training.samples,
        steps=training.steps,
        loss=training.loss,
        share=diagnostics.shares[reply.site],
        update_norm=diagnostics.update_norms[reply.site],
        validation_cases=validation.cases,
        dice=validation.dice,
        validation_loss=validation.loss,
        training_seconds=training.seconds,
        validation_seconds=validation.seconds,
        seconds=item.seconds,
        bytes_down=item.bytes_down,
        bytes_up=item.bytes_up,
        epsilon=None if reply.promise is None else reply.promise.spent,
    )
