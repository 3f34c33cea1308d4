"""Teams, programs, launches, and the cache of compiled kernels."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rocforge.cpu.isa import load_i64, store_i64
from rocforge.cpu.threads import Program, Team, kernel, launch, record, share, use, words
from tests.paths import ROOT

pytestmark = pytest.mark.alone


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


def test_empty_programs_in_between():
    """Threads that woke late for an empty one would run the next one twice."""
    team, x = Team(3), np.zeros(64, np.int64)
    with record() as program:
        launch(add_one, x, 64)
    for _ in range(1000):
        team.run(Program())
        team.run(program)
    team.close()
    assert set(x.tolist()) == {1000}


def test_a_closed_team_runs_on_the_callers_thread():
    team, x = Team(3), np.zeros(64, np.int64)
    with record() as program:
        launch(add_one, x, 64)
    team.close()
    team.run(program)
    assert set(x.tolist()) == {1}


FORK = """
import os, sys, warnings
import numpy as np
from rocforge.cpu.gather import gather
from rocforge.cpu.threads import Team, record
warnings.simplefilter("ignore")  # Python warns of forks where there are threads
team, out = Team(2), np.zeros((2, 1), np.float32)
with record() as program:
    gather(np.ones((1, 1), np.float32), np.zeros(2, np.int32), out)
team.run(program)
out[:] = 0
child = os.fork()
team.run(program)
team.close()
good = out.tolist() == [[1.0], [1.0]]
if not child:
    os._exit(0 if good else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not good)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_the_child_of_a_fork_has_threads_of_its_own():
    assert subprocess.run([sys.executable, "-c", FORK], timeout=60).returncode == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_an_interrupt_leaves_the_team_whole():
    """Ctrl-C at any moment: a program has run on all threads or on none."""
    team, x = Team(3), np.zeros(64, np.int64)
    with record() as program:
        for _ in range(20):
            launch(add_one, x, 64)
    team.run(program)  # compiles
    interrupts = 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while interrupts < 50:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                while True:
                    team.run(program)
            except KeyboardInterrupt:
                interrupts += 1
                assert len(set(x.tolist())) == 1 and x[0] % 20 == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    team.close()
    assert x[0] > 20


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
from rocforge.cpu.machine_code import cache_directory
from rocforge.gguf.formats import Q8
quantize(np.ones((1, 32), np.float32), Q8(np.empty((1, 32), np.int8), np.empty((1, 1), np.float32), np.empty((1, 2), np.int16)))
print(cache_directory())
"""


def run_with(home, tmp):
    env = {**os.environ, "XDG_CACHE_HOME": str(home), "TMPDIR": str(tmp)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_kernels_are_kept_where_the_user_keeps_caches(tmp_path):
    home = tmp_path / "cache"
    directory = run_with(home, tmp_path)
    assert directory.startswith(str(home / "rocforge"))
    files = {p: p.stat().st_mtime_ns for p in home.rglob("*.o")}
    assert files
    run_with(home, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*.o")} == files


def test_a_damaged_file_is_made_anew(tmp_path):
    run_with(tmp_path, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.o")}
    for path, held in files.items():
        path.write_bytes(held[: len(held) // 2])
    run_with(tmp_path, tmp_path)
    assert {len(path.read_bytes()) for path in tmp_path.rglob("*.o")} == set(map(len, files.values()))


BY_PROCESSES = """
from rocforge.cpu import activation, compiling, gather, machine_code, norm, quantize, threads
kernels, told = list(threads.KERNELS.values()), []
machine_code.compiled = None  # not by this process
compiling.compile_all(kernels, 2, lambda *done: told.append(done))
assert all(k.is_compiled and k.is_kept for k in kernels) and len(kernels) > 4
assert told == sorted(told) and told[0] == (0, len(kernels)) and told[-1] == (len(kernels), len(kernels)), told
"""


def test_kernels_are_compiled_by_several_processes(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", BY_PROCESSES], env=env, check=True)


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the directory should be")
    assert run_with(blocked, tmp_path).startswith(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no user ids")
def test_a_cache_that_another_user_has_laid_out_is_not_used(tmp_path):
    """Compiled kernels are code: nobody else's may be loaded from where all may write."""
    blocked = tmp_path / "file"
    blocked.touch()
    another = os.getuid() + 1
    (tmp_path / f"rocforge-{another}").mkdir()
    env = {**os.environ, "XDG_CACHE_HOME": str(blocked), "TMPDIR": str(tmp_path)}
    as_another = f"import os; os.getuid = lambda: {another}\n{PROGRAM}"
    ran = subprocess.run([sys.executable, "-c", as_another], env=env, capture_output=True, text=True)
    assert ran.returncode != 0 and "set XDG_CACHE_HOME" in ran.stderr


def test_a_change_in_any_source_makes_another_cache(tmp_path):
    """A kernel is compiled with what its file imports."""
    package = tmp_path / "rocforge"
    shutil.copytree(ROOT / "rocforge", package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    ask = "from rocforge.cpu.machine_code import cache_directory; print(cache_directory())"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    directory = lambda: subprocess.run(
        [sys.executable, "-c", ask], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    first = directory()
    assert directory() == first
    with open(package / "cpu" / "isa.py", "a") as source:
        source.write("# changed\n")
    assert directory() != first


def test_two_processes_may_start_together(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    run_with(tmp_path, tmp_path)
