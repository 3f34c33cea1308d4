#!/usr/bin/env python3
"""The table of docs/AMD.md: a line a target from what `python -m rocforge.kernels.inspect --json` printed.

    for t in gfx906 gfx1100; do python -m rocforge.kernels.inspect --target $t --json > $t.json; done
    python tools/machine_code_table.py gfx906.json gfx1100.json
"""

import json
import sys
from pathlib import Path


def line(name: str, rows: list[dict]) -> list:
    of = lambda *kernels: [r for r in rows if r["kernel"] in kernels]
    gemv = of("gemv_blocks")
    q4_k = next(r for r in gemv if r["format"] == "Q4_K" and "BT1 " in r["tile"])
    products = of("gemm_blocks", "gemm_plain", "gemm_floats", "attend_tile", "attend_split")
    return [
        name,
        len(rows),
        sum(r["spills"] > 0 for r in rows),
        f"{max(r['lds_bytes'] for r in rows) / 1024:.3g} KiB",
        f"{sum(r['matrix'] > 0 for r in products)} of {len(products)}",
        f"{sum(r['dot'] > 0 for r in gemv)} of {len(gemv)}",
        f"{q4_k['vgprs']} / {q4_k['waves_per_simd']}",
        f"{q4_k['load_128']} + {q4_k['load_64']}",
    ]


def main() -> None:
    head = ["Target", "Kernels", "Spilling", "LDS at most", "Matrix products with matrix instr.", "Integer products with dot instr.",
            "Q4_K, 1 token: VGPRs / waves a SIMD", "its loads of 128 + 64 bits"]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for path in map(Path, sys.argv[1:]):
        lines.append(line(path.stem, json.loads(path.read_text())))
    for cells in lines:
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
