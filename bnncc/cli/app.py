"""The commands, and the one place where what bnncc refuses becomes a message and an exit code."""

import errno
import os
import sys
import traceback

import typer

from bnncc.cli import bench, board, build, cycles, info, measure, study, train, verify
from bnncc.cli.show import diagnostics_json, print_diagnostics, print_json
from bnncc.errors import BnnccError, ToolError

app = typer.Typer(
    name="bnncc",
    help="Compile binarized neural networks from ONNX to C for Cortex-M, exact against onnxruntime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("compile")(build.compile_command)
app.command("verify")(verify.verify_command)
app.command("measure")(measure.measure_command)
app.command("cycles")(cycles.cycles_command)
app.command("bench")(bench.bench_command)
app.command("train")(train.train_command)
app.command("study")(study.study_command)
app.command("flash")(board.flash_command)
app.command("targets")(info.targets_command)
app.command("explain")(info.explain_command)
app.command("doctor")(info.doctor_command)


def main() -> None:
    """Run the command line; whatever goes wrong ends in a diagnostic and an exit code, never in a traceback."""
    try:
        app()
    except BnnccError as e:
        fail(e)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as e:
        if e.errno == errno.EPIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        place = e.filename if isinstance(e.filename, str) else ""
        fail(
            ToolError.of(
                "E0509",
                f"{e.strerror or e}",
                where=place,
                remedy="check the path, its rights and the space on the disk",
            )
        )
    except Exception as e:
        if os.environ.get("BNNCC_TRACEBACK"):
            traceback.print_exc()
        fail(
            BnnccError.of(
                "E0000",
                f"{type(e).__name__}: {str(e)[:300]}",
                remedy="run again with BNNCC_TRACEBACK=1 and report it: this is a defect of bnncc",
            )
        )


def fail(e: BnnccError) -> None:
    """Print the diagnostics, as JSON if --json was given, and end with the exception's exit code."""
    if "--json" in sys.argv:
        print_json({"ok": False, "diagnostics": diagnostics_json(e.diagnostics)})
    else:
        print_diagnostics(e.diagnostics)
    sys.exit(e.exit_code)
