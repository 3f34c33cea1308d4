"""`rocforge bench`: how fast a model is here, or each of its ops. Times nothing itself: rocforge.engine does."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click
from click.core import ParameterSource

from rocforge.commands import results, verbose
from rocforge.commands.machine import describe
from rocforge.commands.progress import Progress
from rocforge.errors import RequestError
from rocforge.plan.ir import CONTRACTS, KV_FORMATS
from rocforge.probe import CHOICES

SLOWER = 1  # exit code of --compare where something got slower
OVER = 0.1  # of the bound, by which an op may be faster before the limits are called wrong
# Options that only one of the two ways to bench has: the parameters' names.
OF_MODELS, OF_OPS = ("prompts", "texts", "batches", "chunk", "llama_bench"), ("tokens", "peers")


class Numbers(click.ParamType):
    """Whole numbers from `least` on, with commas between them."""

    name = "N,N,.."

    def __init__(self, least: int = 0):
        self.least = least

    def convert(self, value: Any, param, ctx) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = (-1,)
        if min(numbers) < self.least:
            self.fail(f"{value!r} is no list of whole numbers from {self.least} on, as {self.least},4096", param, ctx)
        return numbers


@click.command(context_settings={"show_default": True})
@click.option("-m", "--model", metavar="FILE", help="A GGUF file; if left out the built-in model, with --ops a standard set.")
@click.option("-p", "--prompt", "prompts", type=Numbers(), default="512", help="Tokens of a prompt; 0 for none.")
@click.option("-n", "--text", "texts", type=Numbers(), default="128", help="Tokens of text; 0 for none.")
@click.option("-d", "--depth", "depths", type=Numbers(), default="0", help="Tokens that are in the cache before.")
@click.option("-b", "--batch", "batches", type=Numbers(), default="1", help="Sequences at once.")
@click.option("-r", "--repetitions", type=click.IntRange(min=1), default=5, help="Of each test, after warming up.")
@click.option("-c", "--chunk", type=click.IntRange(min=1), default=512, help="Tokens of a prompt in one step.")
@click.option("--ops", is_flag=False, flag_value="all", metavar="[OP,OP,..]", show_default=False,
              help="Time ops by themselves: each op x format x shape, or of the named ops only.")  # fmt: skip
@click.option("--tokens", type=Numbers(1), default="1,512", help="Of a step, with --ops.")
@click.option("--peers/--no-peers", default=True, help="With --ops: time beside each what torch or numpy would take.")
@click.option("--llama-bench", metavar="FILE", help="llama.cpp's program of that name: run it beside, with one sequence.")
@click.option("--kv", "kv_format", type=click.Choice(KV_FORMATS), default="f16", help="What the KV cache holds.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="CPU threads; default: one a core that may be used.")
@click.option("--huge-pages/--no-huge-pages", default=None, help="On a CPU: copy the weights into huge pages.")
@click.option("--device", type=click.Choice(CHOICES), default="auto", help="What to run on.")
@click.option("-o", "--output", type=click.Choice(tuple(results.RENDER)), default="table", help="How results are printed.")
@click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
@click.option("--plot", metavar="FILE", help="Draw into FILE (png, svg, pdf): the roofline with --ops, else tokens/s against depth.")
@click.option("--compare", metavar="FILE", help="Earlier results (JSON): exit code 1 where something got slower beyond the noise.")
@verbose
@click.pass_context
def bench(ctx: click.Context, ops: str | None, output: str, as_json: bool, plot: str | None, compare: str | None, **options) -> None:
    """Time a model: tokens a second of prompts and of text.

    The conventions are those of llama-bench: random tokens, nothing sampled; pp is a prompt, tg text. With
    --ops it is each op by itself that is timed.
    """
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    wrong = [o for name, o in _option_names(ctx).items() if name in given and name in (OF_OPS if ops is None else OF_MODELS)]
    if wrong:
        raise RequestError(f"{wrong[0]} goes {'with' if ops is None else 'not with'} --ops")
    models = results.MODEL if options["llama_bench"] is None else results.MODEL_BESIDE
    sort, run = (models, _models) if ops is None else (results.OPS, _ops)
    earlier = results.read_earlier(compare, sort) if compare else None
    draw = _drawing(plot, ops is not None, options["depths"]) if plot else None
    machine: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    try:
        with Progress() as progress:
            run(machine, rows, progress, ops=ops, **options)
    except (KeyboardInterrupt, RequestError):
        if rows:  # what there is was paid for
            click.echo(results.RENDER["json" if as_json else output](sort, machine, rows))
        raise
    click.echo(results.RENDER["json" if as_json else output](sort, machine, rows))
    if draw:
        draw(machine, rows)
    if earlier is not None and results.compare(earlier, rows, sort):
        ctx.exit(SLOWER)


def _option_names(ctx: click.Context) -> dict[str, str]:
    """An option as it is written, by its parameter's name."""
    return {p.name: max(p.opts, key=len) for p in ctx.command.params}


def _drawing(path: str, is_ops: bool, depths: Sequence[int]) -> Callable[[dict, list[dict]], None]:
    """What draws the results. Raises RequestError, before anything is timed, where it could not."""
    from rocforge.commands import plots

    if not is_ops and len(set(depths)) < 2:
        raise RequestError("--plot draws tokens/s against depth: give several (-d 0,1024,4096), or draw ops (--ops)")
    plots.check(path)
    drawing = plots.roofline if is_ops else plots.depths
    return lambda machine, rows: drawing(path, machine, rows)


def _models(
    machine: dict, rows: list[dict], progress: Progress, *, model: str | None, prompts: Sequence[int], texts: Sequence[int],
    depths: Sequence[int], batches: Sequence[int], repetitions: int, chunk: int, kv_format: str, threads: int | None,
    huge_pages: bool | None, device: str, llama_bench: str | None, **_,
) -> None:  # fmt: skip
    """Fills `machine`, and `rows` one by one."""
    from rocforge.engine import peers
    from rocforge.engine.measure import measure, workloads
    from rocforge.llm import LLM

    planned = workloads(prompts, texts, depths, [b for b in batches if b])
    if not planned:
        raise RequestError("nothing to time: give a prompt (-p), a text (-n) and a batch (-b) above 0")
    settings = {
        "device": device, "threads": threads, "kv_format": kv_format, "huge_pages": huge_pages, "chunk_tokens": chunk,
        "context": max(t.context for t in planned), "sequences": max(t.sequences for t in planned),
    }  # fmt: skip
    with LLM(model, **settings, progress=progress) as llm:
        click.echo(str(llm.device), err=True)
        machine.update(describe(llm.device))
        for test in planned:
            report = lambda done, total, test=test: progress(f"timing {test.name}", done, total)
            found = measure(llm.runner, llm.config.vocab_size, test, repetitions, report)
            rows.append({
                "model": llm.config.name, "model_bytes": llm.path.stat().st_size, "test": test.name, **asdict(test), "kv": kv_format,
                "tokens_per_s": found.mean, "deviation": found.deviation, "rates": found.rates,
            })  # fmt: skip
            if llama_bench and test.sequences == 1:
                progress(f"timing llama.cpp's {test.name}", 0, 1)
                found = peers.llama_bench(llama_bench, llm.path, test, llm.device.kind, llm.device.threads, repetitions)
                rows[-1]["llama_cpp_tokens_per_s"] = found


def _ops(
    machine: dict, rows: list[dict], progress: Progress, *, model: str | None, ops: str, tokens: Sequence[int],
    depths: Sequence[int], repetitions: int, peers: bool, kv_format: str, threads: int | None, huge_pages: bool | None,
    device: str, **_,
) -> None:  # fmt: skip
    """Fills `machine`, the roofline among it, and `rows` one by one."""
    from rocforge import llm
    from rocforge.engine import micro, standard

    known = [kind for kind, contract in CONTRACTS.items() if contract.launched]
    wanted = known if ops == "all" else ops.split(",")
    for name in wanted:
        if name not in known:
            raise RequestError(f"--ops {name}: there is no such op; there are {', '.join(known)}")
    if model is None:
        from rocforge.engine.selftest import verdict
        from rocforge.probe import choose

        chosen = choose(device, threads, verdict, huge_pages)
        plans, name = standard.plans(chosen.kind, kv_format), standard.NAME
    else:
        design = llm.draw(model, device, threads=threads, kv_format=kv_format, huge_pages=huge_pages)
        design.file.close()
        chosen, plans, name = design.device, [design.plan], design.config.name
    click.echo(str(chosen), err=True)
    selected = [case for case in micro.cases(plans, chosen.kind, tokens, depths) if case.op.kind in wanted]
    machine.update(describe(chosen))
    backend, launchers = llm.open_backend(chosen)
    try:
        for found in micro.run(selected, backend, launchers, chosen.kind, chosen.threads, repetitions, peers, progress):
            if "roofline" in found:
                machine["roofline"] = found["roofline"].as_dict()
                micro.hold_against(found["roofline"], rows)
            else:
                rows.append({"model": name, **found})
    finally:
        backend.close()
    over = [row for row in rows if row["of_bound"] > 1 + OVER]
    if over:
        click.echo(
            f"{len(over)} of {len(rows)} ops were faster than the limits allow: something else used the device while "
            "these were measured; run it again on an idle machine",
            err=True,
        )  # fmt: skip
