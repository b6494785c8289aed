"""The command `course`. Thin: each command checks nothing and computes nothing, it calls one function and prints.

Start-up stays quick because everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from course_lib import CourseError, shown

app = typer.Typer(
    help="From loss to BERT: set up, build and check the course; fine-tune, examine and use a BERT.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="A .csv, .tsv or .jsonl file, or the word tickets for the course's own.")
]
Text = Annotated[str, typer.Option(help="Column with the texts.")]
Label = Annotated[
    str | None, typer.Option(help="Column with the labels (label; for tickets: intent).", show_default=False)
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a fine-tuned model.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Fetch the model, then open JupyterLab on the first lesson. What follows is passed on to JupyterLab."""
    from course_lib.cache import compile_cache_variables
    from course_lib.pretrained import fetch

    fetch(report=_say)
    _borrow_a_home()
    for name, value in compile_cache_variables().items():
        os.environ.setdefault(name, value)
    _say("starting JupyterLab (Ctrl-C twice ends it)")
    first = "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"  # also in the address that is printed
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={_root()}", first, *context.args]
    if sys.platform == "win32":  # execv there gives the prompt back at once, and takes paths with blanks apart
        raise typer.Exit(subprocess.call(command))
    os.execv(sys.executable, command)


@app.command()
def doctor() -> None:
    """Check this machine and this installation; say what to do about what is wrong."""
    from course_lib.doctor import run_checks

    ok = True
    for check in run_checks(_root()):
        ok = ok and check.ok
        _print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<10} {check.found}")
        if not check.ok:
            _print(f"{'':17}{check.advice}")
    raise typer.Exit(0 if ok else 1)


@app.command()
def model(
    name: Annotated[str | None, typer.Argument(help="A model on the Hugging Face Hub, or a folder.")] = None,
) -> None:
    """Fetch a model where it is not here yet, verify it, and show where it came from."""
    from course_lib.pretrained import describe

    info = describe(name, report=_say)
    config = info.config
    _print(f"name        {shown(info.name, 200)}")
    _print(f"folder      {shown(info.folder, 1000)}")
    _print(f"source      {shown(info.source, 200)}")
    _print(f"size        {info.parameters:,} parameters, {info.weight_bytes / 2**20:.1f} MiB")
    _print(f"shape       {config.num_hidden_layers} layers, width {config.hidden_size}, {config.vocab_size:,} tokens")
    _print(f"verified    {', '.join(info.verified) or 'no published hash is known for this model'}")


@app.command()
def build(
    lesson: Annotated[str | None, typer.Argument(help="A lesson's number or name; all where none is given.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Build nothing; fail where a file does not match.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Execute again what has not changed, too.")] = False,
) -> None:
    """Make notebooks/, exercises/ and solutions/ from lessons/, executed. Only what changed is built again."""
    from course_lib.notebook_build import build as build_notebooks
    from course_lib.pretrained import fetch

    if not check:
        fetch(report=_say)  # notebooks run with the network off
    build_notebooks(_root(), only=lesson, check=check, force=force, report=_say)


@app.command()
def progress() -> None:
    """Show the exercises done, the minutes left, and what the checks last said of those that are not right yet."""
    from course_lib.checks.progress import table

    _print(str(table()))


@app.command()
def grade(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Learners' folders, one a learner.")],
    out: Annotated[Path, typer.Option(help="The CSV to write, a row an exercise and learner.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Notebooks run at once (half the processors).", show_default=False)
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="Limit for one cell; a notebook may take ten times this.")] = 60,
    memory: Annotated[float, typer.Option(min=0.5, help="Limit for one notebook, in GiB.")] = 4,
) -> None:
    """Run learners' exercise notebooks, judge them by the course's own checks, and write a table."""
    from course_lib.grade import grade as run

    rows = run(_root(), folders, out, jobs=jobs, seconds=seconds, memory=memory, report=_print)
    _print(f"{len(rows)} rows written to {out}")


@app.command()
def finetune(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the fine-tuned model.")],
    text: Text = "text",
    label: Label = None,
    validation: Annotated[str | None, typer.Option(help="A file to validate on; else 15 % are held out.")] = None,
    model: Annotated[str | None, typer.Option(help="A model on the Hub, or a folder.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most this often through the data.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="At the end of warm-up (2e-4; 5e-5 from BERT-base's width on).")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text, in tokens (128, or what the model takes); longer ones are cut.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the classifier's start and the order.")] = 0,
    dropout: Annotated[
        bool, typer.Option("--dropout", help="Drop out, at the rates of the model's config.json.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Compute in float32 or bfloat16.")] = "float32",
    accumulate: Annotated[int, typer.Option(min=1, help="Parts of a batch, one after the other: less memory.")] = 1,
    remat: Annotated[bool, typer.Option("--remat", help="Compute activations twice, keep fewer.")] = False,
    devices: Annotated[int, typer.Option(min=1, help="Share each batch among so many.")] = 1,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where process 0 is.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many there are; all their devices work.")] = None,
    process_id: Annotated[int | None, typer.Option(min=0, help="Which of them this is.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Learn these three from Slurm or Kubernetes.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is in --out.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")] = False,
) -> None:
    """Fine-tune a BERT on labelled texts."""
    from course_lib.finetune import finetune as run

    together = (coordinator, processes, process_id)
    if not cluster and None in together:
        if any(value is not None for value in together):
            raise CourseError("--coordinator, --processes and --process-id belong together; give all three")
        together = None
    try:
        metrics = run(
            data, text=text, label=label or _default_label(data), out=out, validation=validation, model=model,
            max_length=max_length, overwrite=overwrite, resume=resume, together=together, report=_say,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
            dropout=dropout, dtype=dtype, accumulate=accumulate, remat=remat, devices=devices,
        )  # fmt: skip
    except KeyboardInterrupt:
        _say("interrupted; after the first whole epoch, the same command with --resume goes on where this one stopped")
        raise typer.Exit(130) from None
    if together is not None and sys.modules["jax"].process_index():  # the first process speaks for all
        return
    scores = metrics["validation"]
    _print(f"validation: accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}, n {scores['n']}")
    _print(f'saved to {out}; next: course predict {out} "your text"')


@app.command()
def evaluate(
    folder: Folder,
    data: Data,
    text: Text = "text",
    label: Label = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file, too.")] = None,
) -> None:
    """Score a fine-tuned model on labelled texts (for tickets: on the test split)."""
    from course_lib.files import check_target, write_json
    from course_lib.predict import evaluate_folder

    if json is not None:
        check_target(json)
    result = evaluate_folder(folder, data, text, label or _default_label(data))
    if json is not None:
        write_json(json, result.to_dict())
    _print(str(result))


@app.command()
def predict(
    folder: Folder,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to label.", show_default=False)] = None,
    input: Annotated[Path | None, typer.Option(help="A .csv, .tsv or .jsonl file with texts.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write text, label and probability, a row a text.")
    ] = None,
    text: Text = "text",
) -> None:
    """Label texts: those given, or those of a file."""
    if (texts is None) == (input is None) or (input is None) != (output is None):
        raise CourseError(
            'give texts, course predict DIR "text" …, or a file, course predict DIR --input FILE --output FILE'
        )
    from course_lib.predict import Predictor, predict_file

    if input is not None:
        rows = predict_file(folder, input, output, text)
        _print(f"{rows} rows written to {output}")
        return
    for prediction in Predictor(folder)(texts):
        _print(f"{shown(prediction.label, 200)}\t{prediction.probability:.3f}")


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need a key, COURSE_SERVE_KEY.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Texts in one run of the model, at most.")] = 32,
    wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="How long a text waits for others, at most.")] = 2,
    queue: Annotated[int, typer.Option(min=128, help="Texts that may wait; beyond it callers get 503.")] = 256,
) -> None:
    """Answer over HTTP: a page to try it at /, POST /predict for programs, /metrics, /docs."""
    from course_lib.serve import serve as run
    from course_lib.service import Settings

    settings = Settings.from_environment(max_batch=batch, max_wait=wait_ms / 1000, max_queue=queue)
    run(folder, host=host, port=port, settings=settings, report=_say)


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Folder for the files (DIR/exported).", show_default=False)] = None,
    weights: Annotated[str, typer.Option(help="Store them as float32, bfloat16 or int8.")] = "float32",
) -> None:
    """Write the model as StableHLO, for CPU, CUDA and TPU, with a script that runs it without this course."""
    from course_lib.export import export as run

    target = run(folder, out or folder / "exported", weights)
    _print(f'saved to {target}; next: python {target / "predict.py"} "your text"')


def main() -> None:
    """Entry point: what the user can put right is one line and exit code 2."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by whoever started this
        stream.reconfigure(errors="backslashreplace")  # a label that the terminal cannot show must not end the work
    try:
        os.getcwd()
    except OSError as error:
        _say(f"error: the folder that you are in cannot be entered any more ({error.strerror}); cd to another one")
        sys.exit(2)
    try:
        sys.exit(app(args=None if sys.argv[1:] else ["--help"], prog_name="course", standalone_mode=False))
    except typer.TyperException as error:
        command = error.ctx.command_path if getattr(error, "ctx", None) else "course"
        _say(f"error: {' '.join(error.format_message().split()).rstrip('.')}; see {command} --help")
        sys.exit(error.exit_code)
    except CourseError as error:
        _say(f"error: {error}")
        if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
            os._exit(2)  # the others may be gone, and JAX would wait for them and then dump its core
        sys.exit(2)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)


def _default_label(data: str) -> str:
    return "intent" if data == "tickets" else "label"


def _root() -> Path:
    """The course's clone: the folder above this package, which is installed in place."""
    return Path(__file__).resolve().parent.parent


def _borrow_a_home() -> None:
    """Where the home folder cannot be written to, or there is none: Jupyter would end at once."""
    import tempfile

    from course_lib.cache import cache_folder

    home = os.path.expanduser("~")
    if os.access(home, os.W_OK):
        return
    os.environ["COURSE_CACHE"] = str(cache_folder())  # the notebooks find the model where it is
    os.environ["HOME"] = tempfile.mkdtemp(prefix="course-home-")
    _say(f"home folder {home} cannot be written to; settings and progress go to {os.environ['HOME']} for now")


def _say(line: str) -> None:
    line = shown(line, 3_000)
    print(line, file=sys.stderr, flush=True)


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again when it ends
        if isinstance(error, BrokenPipeError):  # whoever reads has had enough, as in `course predict … | head -1`
            sys.exit(1)
        raise CourseError(f"standard output cannot be written to ({error.strerror})") from None
