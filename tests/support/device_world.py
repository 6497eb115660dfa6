"""A model of the world behind the scheduler: what the processes really do when its effects are carried out.

The invariants I1 to I6 and I8 of gpu-engine.md 2.2 are checked here, on what happens, not on what the snapshot says.
(I7, whom a signal may reach, is the business of `engine.device.processes` and its tests.)
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.api_device import BackendName
from engine.api_device import DeviceState as S
from engine.device import messages as m
from engine.device import scheduler
from engine.device.contracts import TrainerEnd
from engine.device.states import FaultKind, Job, Policy, Snapshot
from engine.device.transitions import Decision, reconcile

Decide = Callable[[Snapshot, m.Message, Policy], Decision]

POLICY = Policy(
    sleepers=frozenset({BackendName.SCRIPTED, BackendName.VLLM}),
    drain_s=20,
    sleep_s=60,
    settle_s=5,
    trainer_grace_s=30,
    start_tries=3,
)
BACKENDS = st.sampled_from([BackendName.SCRIPTED, BackendName.LLAMACPP, BackendName.VLLM])
ENDS = st.sampled_from(
    [TrainerEnd(True, ""), TrainerEnd(False, "diverged"), TrainerEnd(False, "out of memory", retry_smaller=True)]
)
INSTANT = (m.Look, m.Timer, m.AnswerJob, m.AnswerSwitch, m.RefuseWaiting, m.StopTrainer, m.RunTrainer)
AT_REST = (S.SERVING, S.COLD, S.FAULT)
MOVES = 80
"""So many moves bring a world that works to rest, with three jobs in the queue."""
DEADLINES = 8
"""So many expired deadlines in a row bring any state to rest."""


def booted(backend: BackendName = BackendName.SCRIPTED, epoch: int = 1) -> Decision:
    """As an engine starts."""
    return reconcile(Snapshot(S.RECONCILE, "", backend, epoch=epoch), POLICY, "The engine starts.")


class DeviceWorld(RuleBasedStateMachine):
    """Random wishes, answers, deaths and deadlines."""

    decide: Decide = staticmethod(scheduler.decide)

    def __init__(self) -> None:
        super().__init__()
        self.lock = False
        self.holder = False
        self.server = "gone"
        self.verified_epoch = 0
        self.proved_epoch = 0
        self.trainer: str | None = None
        self.stopping = False
        self.pending: m.Effect | None = None
        self.timer = -1
        self.waiting = 0
        self.in_flight = 0
        self.accepted = self.answered = 0
        self.wanted: set[str] = set()
        self.number = 0
        self.owed: list[m.Message] = []
        self.snapshot = Snapshot(S.RECONCILE, "", BackendName.SCRIPTED)
        self.sound = True
        self.take(booted())

    # --- what effects do ---

    def take(self, decision: Decision) -> None:
        self.sound = False  # until it is through: what a broken invariant leaves behind proves nothing more
        self._take(decision)
        self.sound = True

    def _take(self, decision: Decision) -> None:
        entered = decision.snapshot.step != self.snapshot.step
        self.snapshot = decision.snapshot
        if entered:
            self.timer = -1
            if self.snapshot.state is S.SERVING:
                self.in_flight, self.waiting = self.in_flight + self.waiting, 0
            elif self.snapshot.state is not S.DRAINING:
                self.abort()
        for effect in decision.effects:
            self.begin(effect)

    def abort(self) -> None:
        self.answered += self.in_flight
        self.in_flight = 0

    def begin(self, effect: m.Effect) -> None:
        if not isinstance(effect, INSTANT):
            self.pending = effect
        match effect:
            case m.Timer():
                self.timer = self.snapshot.step
            case m.Look():
                self.owed.append(m.LookAround())
            case m.RefuseWaiting():
                self.answered, self.waiting = self.answered + self.waiting, 0
            case m.AnswerJob(job_id):
                assert job_id in self.wanted, "I6: one answer for each job"
                self.wanted.remove(job_id)
            case m.StopTrainer():
                self.stopping = True
            case m.RunTrainer(job_id, epoch):
                assert self.lock, "I8: only the holder of the lock starts anything"
                assert self.proved_epoch == epoch, "I2: no trainer without a proof in this epoch"
                assert self.trainer is None, "I1: another trainer runs"
                self.trainer, self.stopping = job_id, False
            case m.StartServer():
                assert self.lock, "I8: only the holder of the lock starts anything"
                assert self.server == "gone", "I1: the old tree is ended before a new one starts"
                self.server = "starting"
            case m.SleepServer():
                assert self.in_flight == 0, "I6: no request is left in a server that goes to sleep"
            case m.WakeServer():
                assert self.server in ("asleep", "dead", "half"), "only what sleeps is woken"
                self.server = "half" if self.server != "dead" else "dead"
            case m.VerifyServer():
                assert self.server in ("awake", "dead"), "I5: adapters are loaded into a server that is awake"
            case m.Reclaim():
                assert self.trainer is None, "what a trainer made is published once its tree is gone"
            case _:
                pass

    # --- wishes ---

    @rule()
    def ask(self) -> None:
        self.accepted += 1
        if self.snapshot.state is S.SERVING:
            self.in_flight += 1
            return
        self.waiting += 1
        self.tell(m.ServeWanted())

    @precondition(lambda self: len(self.snapshot.jobs) < 3)
    @rule()
    def train(self) -> None:
        self.number += 1
        self.wanted.add(f"job-{self.number}")
        self.tell(m.TrainWanted(Job(f"job-{self.number}", 100)))

    @precondition(lambda self: self.snapshot.jobs)
    @rule(place=st.integers(0, 2))
    def cancel(self, place: int) -> None:
        self.tell(m.TrainCancelled(self.snapshot.jobs[place % len(self.snapshot.jobs)].id))

    @precondition(lambda self: self.snapshot.state in (S.COLD, S.SERVING, S.STARTING, S.FAULT))
    @rule(to=BACKENDS)
    def switch(self, to: BackendName) -> None:
        self.tell(m.SwitchWanted(to))

    @precondition(lambda self: self.snapshot.state in (S.COLD, S.FAULT))
    @rule()
    def retry(self) -> None:
        self.tell(m.RetryWanted())

    @precondition(lambda self: self.in_flight > 1)
    @rule()
    def answer(self) -> None:
        self.in_flight -= 1
        self.answered += 1

    # --- the world's turns ---

    @precondition(lambda self: self.owed)
    @rule()
    def mail(self) -> None:
        self.tell(self.owed.pop(0))

    @precondition(lambda self: not self.lock)
    @rule()
    def another_engine(self) -> None:
        self.holder = not self.holder

    @precondition(lambda self: self.server in ("awake", "asleep", "half", "starting"))
    @rule()
    def server_dies(self) -> None:
        self.server = "dead"
        self.owed.append(m.ServerDied(self.snapshot.server_epoch, "It was ended by SIGKILL."))

    @precondition(lambda self: self.trainer is not None)
    @rule(end=ENDS)
    def trainer_ends(self, end: TrainerEnd) -> None:
        job_id, self.trainer = self.trainer, None
        assert job_id is not None
        self.tell(m.TrainerEnded(job_id, TrainerEnd(False, "it was stopped") if self.stopping else end))

    @precondition(lambda self: self.timer >= 0)
    @rule(soon=st.integers(0, 2))
    def time_is_over(self, soon: int) -> None:
        if soon == 0:
            self.deadline()

    def deadline(self) -> None:
        self.tell(m.Expired(self.timer))

    @rule(times=st.integers(1, 6))
    def time_passes(self, times: int) -> None:
        """Everything works for a while: without it the walk would hardly ever leave the first states."""
        for _ in range(times):
            self.move(works=True, odd=False)

    @precondition(lambda self: self.pending is not None)
    @rule(works=st.booleans(), odd=st.booleans())
    def effect_answers(self, works: bool, odd: bool) -> None:
        self.answer_effect(works=works, odd=odd)

    def move(self, *, works: bool, odd: bool) -> bool:
        """The next thing that happens by itself; False if there is none."""
        if self.owed:
            self.mail()
        elif self.pending is not None:
            self.answer_effect(works=works, odd=odd)
        elif self.trainer is not None:
            self.trainer_ends(TrainerEnd(True, ""))
        else:
            return False
        return True

    def answer_effect(self, *, works: bool, odd: bool) -> None:
        effect, self.pending = self.pending, None
        assert effect is not None
        self.tell(self.carried_out(effect, works=works, odd=odd))

    @precondition(lambda self: self.number % 5 == 4)
    @rule()
    def engine_crashes(self) -> None:
        """Its guardians end both trees; whoever waited loses the connection, which is an answer."""
        self.number += 1
        self.answered += self.in_flight + self.waiting
        self.in_flight = self.waiting = 0
        self.lock, self.server, self.trainer, self.stopping = False, "gone", None, False
        self.pending, self.timer, self.owed = None, -1, []
        self.wanted.clear()
        self.take(booted(self.snapshot.backend, self.snapshot.epoch + 1))

    def tell(self, message: m.Message) -> None:
        self.take(type(self).decide(self.snapshot, message, POLICY))

    def carried_out(self, effect: m.Effect, *, works: bool, odd: bool) -> m.Observation:
        step = self.snapshot.step
        match effect:
            case m.Reconcile():
                return self.reconciled(step, works=works)
            case m.StartServer(record=record) if works and self.server == "starting":
                self.server = "awake"
                self.verified_epoch = effect.epoch if record else self.verified_epoch
                return m.ServerReady(step, record)
            case m.StartServer():
                self.server = "gone"
                return m.ServerFailed(step, "bad model", permanent=odd and works)
            case m.Drain():
                self.abort()
                return m.Drained(step)
            case m.SleepServer() if works and self.server == "awake":
                self.server = "asleep"
                return m.Slept(step, leaking=odd)
            case m.SleepServer():
                return m.SleepFailed(step, "500")
            case m.ProveMemory() if works:
                self.proved_epoch = self.snapshot.epoch
                return m.Proven(step)
            case m.ProveMemory():
                return m.NotProven(step, "too little", foreign=odd)
            case m.Reclaim():
                return m.Reclaimed(
                    step, memory_back=works, reason="" if works else "not back", foreign=odd and not works
                )
            case m.WakeServer() if works and self.server == "half":
                self.server = "awake"
                return m.Woke(step)
            case m.WakeServer():
                return m.WakeFailed(step, "500: out of memory")
            case m.VerifyServer() if works and self.server == "awake":
                self.verified_epoch = self.snapshot.epoch
                return m.Verified(step)
            case m.VerifyServer():
                return m.NotVerified(step, "!!!!!!!!", wrong=odd)
            case m.StopServer():
                self.server = "gone"
                return m.Stopped(step)
            case _:
                raise AssertionError(effect)

    def reconciled(self, step: int, *, works: bool) -> m.Observation:
        self.server, self.trainer = "gone", None
        if self.holder:
            return m.Faulted(step, FaultKind.HELD, "pid 7 has it")
        self.lock = True
        return m.Reconciled(step) if works else m.Faulted(step, FaultKind.FOREIGN, "pid 4711")

    # --- what must always hold ---

    @invariant()
    def i1_one_tree_computes(self) -> None:
        computing = [self.server in ("starting", "awake", "half"), self.trainer is not None]
        assert sum(computing) <= 1, f"I1: server {self.server} and trainer {self.trainer}"

    @invariant()
    def i3_serving_is_verified(self) -> None:
        if self.snapshot.state is S.SERVING:
            assert self.verified_epoch == self.snapshot.epoch, "I3: not verified in this epoch"
            assert self.server in ("awake", "dead")

    @invariant()
    def i4_every_state_ends(self) -> None:
        snapshot = self.snapshot
        for _ in range(DEADLINES):
            if snapshot.state in AT_REST:
                return
            assert snapshot is not self.snapshot or self.timer == snapshot.step, f"I4: {snapshot.state} has no deadline"
            snapshot = type(self).decide(snapshot, m.Expired(snapshot.step), POLICY).snapshot
        raise AssertionError(f"I4: {self.snapshot.state} does not come to rest")

    @invariant()
    def i6_every_request_has_one_answer(self) -> None:
        assert self.accepted == self.answered + self.waiting + self.in_flight
        if self.server == "asleep":
            assert self.in_flight == 0, "I6: a request sleeps in the server"
        if self.snapshot.state is S.FAULT:
            assert self.waiting == 0, "I6: nobody waits for a device that cannot be used"

    @invariant()
    def jobs_are_not_lost(self) -> None:
        known = {job.id for job in self.snapshot.jobs} | {done.job_id for done in self.snapshot.done}
        assert known == self.wanted, "I6: every job that was accepted has its answer, or is to have it"

    @invariant()
    def whoever_waits_is_served_some_day(self) -> None:
        if self.waiting and not self.owed and self.snapshot.state is S.COLD:
            assert self.snapshot.resting, "somebody waits, and nothing will ever start a server"

    def teardown(self) -> None:
        """I4 to the end: without any further wish, a world in which everything works comes to rest."""
        self.holder = False
        for _ in range(MOVES if self.sound else 0):
            if not self.owed and self.at_rest():
                return
            if not self.move(works=True, odd=False):
                self.deadline()
        assert not self.sound, f"I4: still {self.snapshot.state} with {self.pending}"

    def at_rest(self) -> bool:
        """Nothing is under way, and nobody waits for anything that could be."""
        if self.snapshot.state is S.FAULT:
            return True
        idle = self.snapshot.state in AT_REST and self.pending is None
        return idle and not self.snapshot.jobs and not self.waiting
