"""The device's owner on scripted fakes: handovers, failures and their ways out (gpu-engine.md 2.2, 2.3)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.device_fakes import HANG, SETTINGS, FakeTrainer, Stage, staged

from engine.api_device import BackendName, DeviceState
from engine.device.contracts import LiveAdapter, MemoryHolder, TrainerEnd
from engine.errors import AdapterUnsupportedError, DeviceBusyError, ProviderError, RequestAbortedError, RuneError

S = DeviceState
NEW = LiveAdapter("new", "/adapters/new")
OLD = LiveAdapter("old", "/adapters/old")


async def hold(stage: Stage, started: asyncio.Event, result: list[object]) -> None:
    """A request that never ends by itself."""
    try:
        async with stage.device.admit() as lease:
            started.set()
            await lease.guard(asyncio.Event().wait())
    except RequestAbortedError as error:
        result.append(error)


async def load(stage: Stage, adapter: LiveAdapter) -> None:
    async with stage.device.admit() as lease:
        await stage.device.ensure_adapter(adapter, lease)


async def dies(stage: Stage) -> None:
    """The server dies, and the owner has noticed."""
    stage.server.die()
    async with asyncio.timeout(60):
        await stage.device.until(lambda snapshot: snapshot.state is not S.SERVING)


async def test_nobody_starts_a_server_that_nobody_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.reaches(S.COLD)
        assert stage.device.status().state is S.COLD
        assert stage.states() == ["reconcile", "cold"]
    assert "scripted start" not in stage.world.log


async def test_the_first_request_starts_it_and_further_ones_find_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        assert await asyncio.gather(*(stage.ask() for _ in range(5))) == ["a"] * 5
        assert stage.world.log.count("scripted start") == 1
        assert stage.world.log.index("prove 4000") < stage.world.log.index("scripted start"), "memory is proven first"
        status = stage.device.status()
        assert (status.state, status.in_flight, status.waiting) == (S.SERVING, 0, 0)
    assert stage.world.held == {}


async def test_a_handover_sleeps_trains_publishes_wakes_and_verifies(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await load(stage, OLD)
        trainer = FakeTrainer(stage.world)
        trainer.result = NEW
        end = await stage.device.train(trainer)
        assert end.succeeded and trainer.published == 1
        assert set(stage.server.loaded) == {"old", "new"}, "the new adapter is live with the end of the handover"
        assert stage.states()[1:] == [
            "starting", "serving", "draining", "sleeping", "preflight", "training", "reclaiming", "waking",
            "verifying", "serving",
        ]  # fmt: skip
        log = stage.world.log
        assert log.count("scripted record") == 1, "while people wait, the base is not asked what is known of it"
        assert "scripted record new only" in log
        order = ["scripted sleep", "prove 6000", "trainer run", "trainer ended", "publish", "scripted wake"]
        order += ["scripted verify", "scripted load new"]
        places = [log.index(entry) for entry in order]
        assert places == sorted(places)
        assert await stage.ask() == "a"


async def test_training_needs_no_server(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        assert (await stage.device.train(FakeTrainer(stage.world))).succeeded
        assert stage.device.status().state is S.COLD
    assert "scripted start" not in stage.world.log


async def test_requests_wait_with_an_eta_while_it_trains(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        await stage.device.train(FakeTrainer(stage.world))  # from which the ETA is learned
        await stage.ask()
        trainer = FakeTrainer(stage.world, "second", ends=[None])
        training = group.create_task(stage.device.train(trainer))
        await trainer.running.wait()
        request = group.create_task(stage.ask())
        while not stage.device.status().waiting:
            await asyncio.sleep(0)
        status = stage.device.status()
        assert status.state is S.TRAINING and status.job_id == "second" and status.eta_seconds is not None
        stage.device.expect_training(1000)
        assert (stage.device.status().eta_seconds or 0) >= 1000
        stage.device.cancel_training("second")
        assert await request == "a"
        assert not (await training).succeeded


async def test_a_request_that_does_not_want_to_wait_fails_with_state_and_reason(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        trainer = FakeTrainer(stage.world, ends=[None])
        group.create_task(stage.device.train(trainer))
        await trainer.running.wait()
        stage.device.expect_training(90)
        with pytest.raises(DeviceBusyError, match=r"training: Training job job has the device\."):
            await stage.ask(wait=False)
        stage.device.cancel_training("job")


async def test_a_drain_lets_requests_finish(tmp_path: Path) -> None:
    async with staged(tmp_path, SETTINGS.model_copy(update={"drain_s": 10.0})) as stage, asyncio.TaskGroup() as group:
        release, started = asyncio.Event(), asyncio.Event()

        async def request() -> str:
            async with stage.device.admit() as lease:
                started.set()
                await lease.guard(release.wait())
                return "finished"

        asked = group.create_task(request())
        await started.wait()
        trained = group.create_task(stage.device.train(FakeTrainer(stage.world)))
        await stage.reaches(S.DRAINING)
        assert "scripted sleep" not in stage.world.log
        release.set()
        assert await asked == "finished" and (await trained).succeeded


async def test_a_drain_aborts_what_does_not_finish_and_none_is_left_in_a_sleeping_server(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        started, result = asyncio.Event(), list[object]()
        group.create_task(hold(stage, started, result))
        await started.wait()
        stage.server.then("sleep", lambda: result.append(stage.device.status().in_flight))
        await stage.device.train(FakeTrainer(stage.world))
        assert isinstance(result[0], RequestAbortedError), "it was told before the server was put to sleep"
        assert result[1] == 0


async def test_an_aborted_lease_lets_nothing_more_through(tmp_path: Path) -> None:
    """I6: a request that was doing something else when the device was handed over cannot use its old lease."""
    async with staged(tmp_path) as stage:
        async with stage.device.admit() as lease:
            assert (await stage.device.train(FakeTrainer(stage.world))).succeeded
            assert lease.aborted
            with pytest.raises(RequestAbortedError):
                await lease.guard(stage.server.answer())
        assert stage.device.status().in_flight == 0


@pytest.mark.parametrize("act", ["500", HANG])
async def test_a_sleep_that_fails_or_hangs_stops_the_server_and_training_goes_on(tmp_path: Path, act: str) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        stage.server.then("sleep", act)
        assert (await stage.device.train(FakeTrainer(stage.world))).succeeded
        tail = ["sleeping", "stopping", "preflight", "training", "reclaiming", "starting", "serving"]
        assert stage.states()[-7:] == tail
        assert stage.world.log.count("scripted start") == 2


async def test_a_server_that_says_200_and_dies_in_its_sleep_is_not_believed(tmp_path: Path) -> None:
    """#45520: the answer is 200 and the engine is gone."""
    async with staged(tmp_path) as stage:
        await stage.ask()

        def lie() -> None:
            stage.server.die()
            stage.server.state = "gone"

        stage.server.then("sleep", lie)
        assert (await stage.device.train(FakeTrainer(stage.world))).succeeded
        assert "scripted wake" not in stage.world.log
        assert await stage.ask() == "a"


async def test_a_sleep_that_frees_too_little_stops_the_server(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        trainer = FakeTrainer(
            stage.world, need_mib=9_400
        )  # with its margin of 5 % and 200 MiB held by the sleeping server: too much
        assert (await stage.device.train(trainer)).succeeded
        assert stage.states()[-8:-2] == ["sleeping", "preflight", "stopping", "preflight", "training", "reclaiming"]


async def test_a_trainer_that_never_fits_is_refused_with_the_numbers_and_the_model_serves_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        trainer = FakeTrainer(stage.world, need_mib=50_000)
        end = await stage.device.train(trainer)
        assert not end.succeeded and "50000" in end.reason and trainer.published == 1
        assert "trainer run" not in stage.world.log
        assert await stage.ask() == "a"


async def test_a_trainer_that_does_not_fit_in_the_machines_memory_is_refused_too(tmp_path: Path) -> None:
    """PREFLIGHT of 2.2, on a GPU machine: there is room on the GPU, and none beside it."""
    async with staged(tmp_path) as stage:
        await stage.ask()
        stage.world.host_free_mib = 3_000
        trainer = FakeTrainer(stage.world)
        trainer.host_mib = 4_000
        end = await stage.device.train(trainer)
        assert not end.succeeded and trainer.published == 1
        assert "does not fit in the machine's memory" in end.reason and "4000" in end.reason and "3000" in end.reason
        assert "trainer run" not in stage.world.log
        assert await stage.ask() == "a"
        trainer = FakeTrainer(stage.world, "small")
        trainer.host_mib = 2_000
        assert (await stage.device.train(trainer)).succeeded


async def test_a_foreign_process_fails_the_job_and_is_named(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.reaches(S.COLD)
        stage.world.foreign.append(MemoryHolder(4711, "python stranger.py", 300))
        end = await stage.device.train(FakeTrainer(stage.world))
        assert not end.succeeded and "4711" in end.reason and "stranger.py" in end.reason
        await stage.reaches(S.FAULT)
        status = stage.device.status()
        assert "4711" in status.reason
        with pytest.raises(DeviceBusyError, match="4711"):
            await stage.ask()
        stage.world.foreign.clear()
        stage.device.retry()
        await stage.reaches(S.COLD)
        assert await stage.ask() == "a"


async def test_out_of_memory_at_the_start_is_tried_once_more_with_less(tmp_path: Path) -> None:
    oom = TrainerEnd(False, "out of memory", retry_smaller=True)
    async with staged(tmp_path) as stage:
        await stage.ask()
        trainer = FakeTrainer(stage.world, ends=[oom, TrainerEnd(True, "")])
        assert (await stage.device.train(trainer)).succeeded
        assert stage.world.log.count("trainer run") == 2 and trainer.published == 1
        assert stage.world.log.count("prove 6000") == 2, "I2: each start has its own proof"
        assert stage.world.log.count("scripted wake") == 1
        again = FakeTrainer(stage.world, "second", ends=[oom, oom, oom])
        assert not (await stage.device.train(again)).succeeded
        assert stage.world.log.count("trainer run") == 4
        assert stage.device.status().state is S.SERVING, "always woken"


async def test_a_trainer_that_crashes_wakes_the_model_anyway(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        trainer = FakeTrainer(stage.world, ends=[TrainerEnd(False, "ended by SIGKILL")])
        assert (await stage.device.train(trainer)) == TrainerEnd(False, "ended by SIGKILL")
        assert stage.states()[-4:] == ["reclaiming", "waking", "verifying", "serving"] and trainer.published == 1


async def test_a_server_that_dies_during_training_does_not_stop_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        await stage.ask()
        trainer = FakeTrainer(stage.world, ends=[None])
        training = group.create_task(stage.device.train(trainer))
        await trainer.running.wait()
        stage.server.die("Out of memory.")
        async with asyncio.timeout(60):
            await stage.device.until(lambda snapshot: "Out of memory." in snapshot.reason)
        assert stage.device.status().state is S.TRAINING and not training.done()
        stage.device.cancel_training("job")
        await training
        assert stage.states()[-4:] == ["reclaiming", "stopping", "starting", "serving"]


async def test_a_wake_out_of_memory_is_tried_once_more(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        stage.server.then("wake", "500: CUDA out of memory")
        await stage.device.train(FakeTrainer(stage.world))
        assert stage.world.log.count("scripted wake") == 2 and stage.world.log.count("scripted start") == 1
        assert stage.world.log.count("scripted sleep") == 1, "never put to sleep again to clean up"
        stage.server.then("wake", "500", "500")
        await stage.device.train(FakeTrainer(stage.world, "second"))
        assert stage.world.log.count("scripted start") == 2, "the second failure ends in a cold start"
        assert stage.device.status().state is S.SERVING


async def test_a_wrong_answer_after_a_wake_ends_its_sleep_for_good(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()

        def garbage() -> None:
            stage.server.voice = "!!!!!!!!"

        def right() -> None:
            stage.server.voice = "a"

        stage.server.then("wake", garbage)
        stage.server.then("stop", right)
        await stage.device.train(FakeTrainer(stage.world))
        assert stage.states()[-4:] == ["verifying", "stopping", "starting", "serving"]
        assert await stage.ask() == "a"
        assert not stage.device.status().sleep_trusted
        await stage.device.train(FakeTrainer(stage.world, "second"))
        assert stage.world.log.count("scripted sleep") == 1, "from then on it is stopped"
    async with staged(tmp_path) as later:
        await later.reaches(S.COLD)
        assert not later.device.status().sleep_trusted, "the next engine knows it too"


async def test_a_server_that_dies_while_serving_is_started_again(tmp_path: Path) -> None:
    async with staged(tmp_path, SETTINGS.model_copy(update={"start_tries": 3})) as stage, asyncio.TaskGroup() as group:
        started, result = asyncio.Event(), list[object]()
        group.create_task(hold(stage, started, result))
        await started.wait()
        await dies(stage)
        assert await stage.ask() == "a"
        assert stage.world.log.count("scripted start") == 2
        assert isinstance(result[0], RequestAbortedError), "I6: it is told, not left"


async def test_starts_that_fail_rest_and_end_in_a_fault_that_says_why(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.server.then("start", "bad model", "bad model")
        with pytest.raises(ProviderError, match="bad model"):
            await stage.ask()
        assert stage.device.status().state is S.FAULT
        stage.device.retry()
        await stage.reaches(S.COLD)
        assert await stage.ask() == "a"


async def test_a_switch_drains_stops_starts_and_serves(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await load(stage, OLD)
        switched = await stage.device.use_backend(BackendName.LLAMACPP)
        assert switched.switched and switched.backend is BackendName.LLAMACPP
        assert list(stage.other.loaded) == ["old"], "live adapters go along"
        assert stage.server.state == "gone"
        back = await stage.device.use_backend(BackendName.SCRIPTED)
        assert back.switched and stage.world.log.count("scripted verify") == 1, "what is known of it must hold"
        again = await stage.device.use_backend(BackendName.SCRIPTED)
        assert again.switched and stage.world.log.count("scripted start") == 2


async def test_a_switch_that_fails_returns_to_the_old_one_and_says_why(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        stage.other.then("start", "no such library")
        answer = await stage.device.use_backend(BackendName.LLAMACPP)
        assert not answer.switched and answer.backend is BackendName.SCRIPTED and "no such library" in answer.reason
        assert await stage.ask() == "a" and stage.device.status().backend is BackendName.SCRIPTED


async def test_a_switch_back_to_one_that_answers_otherwise_is_undone(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        assert (await stage.device.use_backend(BackendName.LLAMACPP)).switched
        stage.server.voice = "b"
        answer = await stage.device.use_backend(BackendName.SCRIPTED)
        assert not answer.switched and answer.backend is BackendName.LLAMACPP and "otherwise" in answer.reason


async def test_a_switch_is_refused_while_it_trains(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        trainer = FakeTrainer(stage.world, ends=[None])
        group.create_task(stage.device.train(trainer))
        await trainer.running.wait()
        answer = await stage.device.use_backend(BackendName.LLAMACPP)
        assert not answer.switched and "training" in answer.reason
        stage.device.cancel_training("job")


async def test_live_adapters_are_few_and_come_back_with_a_restart(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for name in ("one", "two", "three"):
            await load(stage, LiveAdapter(name, f"/adapters/{name}"))
        assert list(stage.server.loaded) == ["two", "three"], "the least recently used one goes"
        await dies(stage)
        await stage.ask()
        assert list(stage.server.loaded) == ["two", "three"]


async def test_what_a_job_made_takes_the_place_of_the_oldest_before_it_is_loaded(tmp_path: Path) -> None:
    """A server that is full takes out one by itself, and it is asked for that one while it is verified."""
    async with staged(tmp_path) as stage:
        for name in ("one", "two"):
            await load(stage, LiveAdapter(name, f"/adapters/{name}"))
        trainer = FakeTrainer(stage.world)
        trainer.result = NEW
        assert (await stage.device.train(trainer)).succeeded
        await stage.reaches(S.SERVING)
        assert list(stage.server.loaded) == ["two", "new"]
        log = [line for line in stage.world.log if "load" in line]
        assert [line.split(" ", 1)[1] for line in log][-2:] == ["unload one", "load new"]


async def test_an_adapter_in_use_is_not_unloaded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, stage.device.admit() as lease:
        await stage.device.ensure_adapter(OLD, lease)
        for name in ("two", "three"):
            await load(stage, LiveAdapter(name, f"/adapters/{name}"))
        assert "old" in stage.server.loaded


async def test_an_adapter_that_fails_concerns_its_request_alone(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.server.then("load bad", "wrong rank")
        with pytest.raises(ProviderError, match="wrong rank"):
            await load(stage, LiveAdapter("bad", "/adapters/bad"))
        await load(stage, OLD)
        stage.server.can_load_adapters = False
        with pytest.raises(AdapterUnsupportedError):
            await load(stage, NEW)


async def test_an_adapter_that_loads_and_cannot_answer_costs_nobody_else(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.server.mute = {"new"}
        with pytest.raises(ProviderError, match="new was loaded and cannot answer"):
            await load(stage, NEW)
        assert list(stage.server.loaded) == []
        await load(stage, OLD)
        await load(stage, LiveAdapter("two", "/adapters/two"))
        stage.server.mute = {"old"}  # from now on; the next start has to do without it
        await dies(stage)
        assert await stage.ask() == "a"
        assert list(stage.server.loaded) == ["two"]


async def test_a_base_that_cannot_answer_is_no_adapter_s_fault(tmp_path: Path) -> None:
    """The control: then the start has failed, and no adapter is given up for it."""
    async with staged(tmp_path) as stage:
        await load(stage, OLD)
        stage.server.mute = {"base"}
        await dies(stage)
        with pytest.raises(RuneError, match="not a number"):
            await stage.ask()
        assert not [line for line in stage.world.log if "unload" in line]


async def test_what_an_adapter_says_beside_others_is_recorded_before_the_sleep_instead(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        async with stage.device.admit():
            await load(stage, NEW)
        assert "scripted record new only" not in stage.world.log
        assert (await stage.device.train(FakeTrainer(stage.world))).succeeded
        await stage.reaches(S.SERVING)
        log = stage.world.log
        assert log.index("scripted record new only") < log.index("scripted sleep")
        assert log.count("scripted record new only") == 1


async def test_a_load_ends_with_the_request_that_wanted_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
        stage.server.then("load new", HANG)
        async with asyncio.TaskGroup() as group:
            request = group.create_task(load(stage, NEW))
            while "scripted load new" not in stage.world.log:
                await asyncio.sleep(0)
            request.cancel()
        async with asyncio.timeout(60):
            await load(stage, OLD)  # nobody stands in its way
            assert (await stage.device.train(FakeTrainer(stage.world))).succeeded


async def test_another_engine_s_device_is_left_alone(tmp_path: Path) -> None:
    """I8: who cannot take the lock serves nobody, and says who has it."""
    async with staged(tmp_path) as stage:
        await stage.reaches(S.COLD)
    world = stage.world
    world.log.clear()
    async with staged(tmp_path) as second:
        second.world.holder = "pid 7 (rune-tui)"
        with pytest.raises(DeviceBusyError, match="pid 7"):
            await asyncio.gather(stage_fault(second), second.ask())


async def stage_fault(stage: Stage) -> None:
    stage.device.retry()
    await stage.reaches(S.FAULT)


async def test_cancelled_requests_and_jobs_leave_the_queue(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        trainer, waiting = FakeTrainer(stage.world, ends=[None]), FakeTrainer(stage.world, "waiting")
        group.create_task(stage.device.train(trainer))
        await trainer.running.wait()
        queued = group.create_task(stage.device.train(waiting))
        request = group.create_task(stage.ask())
        while not stage.device.status().waiting:
            await asyncio.sleep(0)
        request.cancel()
        stage.device.cancel_training("waiting")
        assert not (await queued).succeeded and waiting.published == 1, "its row is settled all the same"
        assert stage.device.status().waiting == 0
        stage.device.cancel_training("job")


async def test_stopping_ends_the_trainer_and_the_server(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        async with staged(tmp_path) as stage:
            await stage.ask()
            trainer = FakeTrainer(stage.world, ends=[None])
            training = group.create_task(stage.device.train(trainer))
            await trainer.running.wait()
        assert not (await training).succeeded
    assert stage.world.held == {} and stage.world.log[-1].endswith("stop")


async def test_durations_are_learned_over_restarts(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.ask()
    async with staged(tmp_path) as later:
        later.server.then("start", HANG)
        async with asyncio.TaskGroup() as group:
            request = group.create_task(later.ask())
            await later.reaches(S.STARTING)
            assert later.device.status().eta_seconds is not None
            request.cancel()


async def test_the_row_is_written_before_the_act(tmp_path: Path) -> None:
    """Intent first: what a crash in the midst of the act finds on disk."""
    async with staged(tmp_path) as stage:
        seen: list[str] = []

        def look() -> None:
            seen.extend(event.payload["state"] for event in stage.recorder.events[-1:])  # type: ignore[misc]

        await stage.ask()
        for call in ("sleep", "wake"):
            stage.server.then(call, look)
        await stage.device.train(FakeTrainer(stage.world, ends=[look]))
        assert seen == ["sleeping", "training", "waking"]
