"""Runs MaxText's train_compile and keeps what it compiled; called by aot_vs_maxtext.py in MaxText's environment.

python benchmarks/maxtext_step.py OUT key=value ...
"""

import gzip
import json
import sys
from pathlib import Path
from time import monotonic
from typing import Any


def main() -> None:
    import maxtext
    from maxtext.trainers.pre_train import train_compile

    out, settings, begun = Path(sys.argv[1]), sys.argv[2:], monotonic()

    def keep(compiled: Any, _: str) -> None:
        found = compiled.memory_analysis()
        memory = {
            "peak": found.peak_memory_in_bytes,
            "arguments": found.argument_size_in_bytes,
            "temporaries": found.temp_size_in_bytes,
            "host": found.host_temp_size_in_bytes + found.host_argument_size_in_bytes,
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "hlo.gz").write_bytes(gzip.compress(compiled.as_text().encode()))
        (out / "facts.json").write_text(json.dumps({"memory": memory, "seconds": monotonic() - begun}))

    train_compile.save_compiled = keep
    base = Path(maxtext.__path__[0]) / "configs" / "base.yml"
    train_compile.main(["", str(base), "compiled_trainstep_file=kept", *settings])


if __name__ == "__main__":
    main()
