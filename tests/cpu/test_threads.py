"""Teams, programs, launches, and the cache of compiled kernels."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rocforge.cpu.isa import load_i64, store_i64
from rocforge.cpu.threads import Program, Team, kernel, launch, record, share, use, words


@kernel
def add_one(args, tid, team):
    x, n = words(args, 2)
    start, stop = share(n, tid, team)
    for i in range(start, stop):
        store_i64(x + 8 * i, load_i64(x + 8 * i) + 1)


@kernel
def neighbours(args, tid, team):
    """out[i] = x[i] + x[n - 1 - i]: reads what other threads wrote in the launch before."""
    x, out, n = words(args, 3)
    start, stop = share(n, tid, team)
    for i in range(start, stop):
        store_i64(out + 8 * i, load_i64(x + 8 * i) + load_i64(x + 8 * (n - 1 - i)))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_each_launch_sees_all_of_the_one_before(threads):
    """A missing barrier would show within thousands of launches that read each other's work."""
    n = 64
    a, b = np.arange(n), np.zeros(n, np.int64)
    with record() as program:
        for _ in range(50):
            launch(neighbours, a, b, n)
            launch(add_one, b, n)
            launch(neighbours, b, a, n)
    team = Team(threads)
    x, y = np.arange(n), np.zeros(n, np.int64)
    for _ in range(20):
        a %= 1 << 20
        x %= 1 << 20
        team.run(program)
        for _ in range(50):
            y = x + x[::-1] + 1
            x = y + y[::-1]
        np.testing.assert_array_equal(a, x)
    team.close()


def test_a_launch_runs_at_once_outside_of_a_recording():
    x = np.zeros(10, np.int64)
    launch(add_one, x, 10)
    with record() as program:
        launch(add_one, x, 10)
    assert x.tolist() == [1] * 10 and len(program) == 1


def test_an_empty_program_and_more_threads_than_work():
    team = Team(4)
    team.run(Program())
    x = np.zeros(1, np.int64)
    with use(team):
        launch(add_one, x, 1)
    team.close()
    assert x[0] == 1


def test_close_ends_the_threads():
    before = threading.active_count()
    teams = [Team(3) for _ in range(3)]
    assert threading.active_count() == before + 6
    for team in teams:
        team.close()
        team.close()
    assert threading.active_count() == before


def test_a_forgotten_team_ends_its_threads():
    before = threading.active_count()
    Team(2)
    deadline = time.monotonic() + 15
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threading.active_count() == before


def test_two_threads_may_share_a_team():
    team, x = Team(2), np.zeros(1000, np.int64)
    with record() as program:
        launch(add_one, x, 1000)

    def many():
        for _ in range(300):
            team.run(program)

    others = [threading.Thread(target=many) for _ in range(3)]
    for t in others:
        t.start()
    for t in others:
        t.join()
    team.close()
    assert set(x.tolist()) == {900}


def test_two_teams_at_once():
    arrays = [np.zeros(100, np.int64) for _ in range(2)]

    def many(x):
        team = Team(2)
        with record() as program:
            launch(add_one, x, 100)
        for _ in range(300):
            team.run(program)
        team.close()

    others = [threading.Thread(target=many, args=(x,)) for x in arrays]
    for t in others:
        t.start()
    for t in others:
        t.join()
    assert all(set(x.tolist()) == {300} for x in arrays)


def test_arrays_outlive_their_names():
    with record() as program:
        launch(add_one, np.zeros(4, np.int64), 4)
    junk = [np.zeros(4, np.int64) for _ in range(100)]
    team = Team(1)
    team.run(program)
    team.close()
    assert not np.any(junk)


# ---- the cache

PROGRAM = """
import numpy as np
from rocforge.cpu.quantize import quantize
from rocforge.cpu.threads import prepare_cache
from rocforge.gguf.formats import Q8
quantize(np.ones((1, 32), np.float32), Q8(np.empty((1, 32), np.int8), np.empty((1, 1), np.float32), np.empty((1, 2), np.int16)))
print(prepare_cache())
"""


def run_with(home, tmp):
    env = {**os.environ, "XDG_CACHE_HOME": str(home), "TMPDIR": str(tmp)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_kernels_are_kept_where_the_user_keeps_caches(tmp_path):
    home = tmp_path / "cache"
    directory = run_with(home, tmp_path)
    assert directory.startswith(str(home / "rocforge"))
    files = {p: p.stat().st_mtime_ns for p in home.rglob("*.nbc")}
    assert files
    run_with(home, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*.nbc")} == files


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the directory should be")
    assert run_with(blocked, tmp_path).startswith(str(tmp_path))


def test_two_processes_may_start_together(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    run_with(tmp_path, tmp_path)
