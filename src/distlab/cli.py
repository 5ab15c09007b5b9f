"""The `distlab` command: a table of functions, each imported only when it is called.

distlab doctor
distlab course up
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from distlab.errors import SettingError, WorkError

COMMANDS = {
    "train": ("distlab.train.run:main", "Train on one process or many, from a file or from options"),
    "doctor": ("distlab.doctor:doctor", "What this machine can run, and what is missing"),
    "tune": ("distlab.train.tune:main", "Search settings with Ray Tune (ASHA, population-based)"),
    "drill torchrun": ("distlab.faults.drills.torchrun:torchrun", "Kill a rank under torchrun, and measure"),
    "drill ray": ("distlab.faults.drills.ray:ray", "The same under Ray Train"),
    "drill horovod": ("distlab.faults.drills.horovod:horovod", "The same under Horovod Elastic"),
    "drill hang": ("distlab.faults.drills.hang:hang", "Let a rank miss a collective, and find out which"),
    "drill checkpoint": (
        "distlab.faults.drills.checkpoint:checkpoint",
        "Damage a checkpoint, and resume from the one before",
    ),
    "drill storage": ("distlab.faults.drills.storage:storage", "Let a run's storage fall silent"),
    "drill cost": ("distlab.faults.drills.cost:cost", "Let a run cost more than its budget, with real rules"),
    "drill injection": (
        "distlab.faults.drills.injection:injection",
        "Inject faults, stop, look what is left",
    ),
    "drill leftovers": ("distlab.faults.leftovers:leftovers", "What injected faults have left behind"),
    "runs show": ("distlab.train.runs:show", "Compare training runs by their logs"),
    "runs report": ("distlab.train.runs_report:report", "Write a comparative report of runs: HTML"),
    "runs collect": ("distlab.train.benchmark_log:collect", "Keep what runs came to, for later projects"),
    "scorecard": ("distlab.predict.validation.report:main", "How far the models are off measured cases"),
    "bench collectives": ("distlab.bench.collectives_command:main", "Time the collectives between processes"),
    "bench compare": ("distlab.bench.compare:compare", "Is a second result file slower beyond noise?"),
    "bench gpu": ("distlab.bench.gpu:main", "What a GPU reaches, or a CPU: products, copies, latency"),
    "bench roofline": ("distlab.bench.roofline:main", "Draw the roofline of such results"),
    "bench recordings": ("distlab.record.recordings:main", "What was recorded on GPUs"),
    "predict memory": ("distlab.predict.commands.training:memory", "A training step's memory, term by term"),
    "predict step": ("distlab.predict.commands.training:step", "A training step's time, MFU and cost"),
    "predict cnn": (
        "distlab.predict.commands.convnet:cnn",
        "Data-parallel training of a convolutional network",
    ),
    "predict collective": ("distlab.predict.commands.running:collective", "A collective's time between GPUs"),
    "predict layout": (
        "distlab.predict.commands.layout:layout",
        "The best layout over GPUs, and why others lost",
    ),
    "predict goodput": (
        "distlab.predict.commands.running:goodput",
        "The share of a run that failures and checkpoints leave",
    ),
    "predict presets": (
        "distlab.predict.commands.listing:presets",
        "Models, clusters and GPUs that have a name",
    ),
    "profile run": ("distlab.observe.profile.run:main", "Profile a command's training on every rank"),
    "profile analyze": ("distlab.observe.profile.analyze:main", "Analyse a profile's traces again"),
    "profile report": ("distlab.observe.profile.dossier:report", "One page: what to change first, and why"),
    "profile compare": ("distlab.observe.profile.compare:compare", "Two profiles side by side"),
    "profile flight": (
        "distlab.observe.profile.flight_report:flight",
        "Which rank never came to which collective",
    ),
    "profile nsys": ("distlab.observe.profile.nsight:nsys", "Run a command under Nsight Systems"),
    "profile ncu": ("distlab.observe.profile.nsight:ncu", "Run a command under Nsight Compute"),
    "profile read-nsys": ("distlab.observe.profile.nsys_report:show_nsys", "Read an SQLite export of it"),
    "profile read-ncu": ("distlab.observe.profile.ncu_report:show_ncu", "Read a CSV of it"),
    "observe sample": ("distlab.observe.sample_command:sample", "What each GPU does now, or watched"),
    "observe record": ("distlab.observe.record_command:record", "Record telemetry, to replay it"),
    "observe export": ("distlab.observe.export_command:export", "Serve GPUs, runs and cost to Prometheus"),
    "observe up": ("distlab.observe.up:up", "Run exporter, Prometheus and Alertmanager on this machine"),
    "observe validate": ("distlab.observe.validate:validate", "Check metrics, scrapes, rules and alerting"),
    "observe rules": (
        "distlab.observe.rules:rules",
        "Write Prometheus' rules and configuration for a cluster",
    ),
    "observe cost": ("distlab.observe.cost:show", "What training runs cost, and what of it was wasted"),
    "observe dashboards": (
        "distlab.observe.dashboards:dashboards",
        "Write the Grafana dashboards and provisioning",
    ),
    "observe page": (
        "distlab.observe.page.server:page",
        "Show the telemetry live in a browser, without Grafana",
    ),
    "course up": ("distlab.course.up:up", "Start the site and stay until Ctrl-C"),
    "course down": ("distlab.course.up:down", "Stop the site"),
    "course book": ("distlab.course.book:book", "Build the book if its inputs changed"),
    "course check-labs": ("distlab.course.release:check_labs", "Are labs/ in step with solutions/?"),
    "course check-quizzes": ("distlab.course.quiz.lint:check_quizzes", "Are the question banks right?"),
    "course show-quiz": ("distlab.course.quiz.show:show_quiz", "A learner's own questions, with keys"),
    "course check-lab": ("distlab.course.check_lab:check_lab", "Are a lab's tests right?"),
    "course grade-file": (
        "distlab.course.grade_file:grade_file",
        "Grade a notebook file as a submission is graded",
    ),
    "course admit": ("distlab.course.accounts.cli:admit_learner", "Admit a learner who signed up"),
    "course pending": ("distlab.course.accounts.cli:pending_learners", "Who waits to be admitted"),
    "course refuse": ("distlab.course.accounts.cli:refuse_learner", "Delete a sign-up that waits"),
    "course reset-password": ("distlab.course.accounts.cli:reset_password", "Make a one-time password link"),
    "course add-instructor": (
        "distlab.course.accounts.cli:add_instructor",
        "Make another instructor's account",
    ),
    "course import-roster": ("distlab.course.accounts.cli:roster", "Admit learners from a CSV file"),
    "course grade": ("distlab.course.grade.commands:grade", "Grade what was submitted"),
    "course regrade": ("distlab.course.grade.commands:regrade", "Grade again, and list what differs"),
    "course grading status": ("distlab.course.grade.commands:status", "What waits, runs and is graded"),
    "course grading cancel": ("distlab.course.grade.commands:cancel", "Cancel what waits or runs"),
    "course grading drain": ("distlab.course.grade.commands:drain", "Finish what runs, and take no more"),
    "course grading resume": ("distlab.course.grade.commands:resume", "Grade whatever waits"),
    "course grades": ("distlab.course.grade.commands:grades", "Write marks as CSV"),
    "course mark-changes": ("distlab.course.grade.commands:mark_changes", "Who changed which mark, and why"),
    "course progress": ("distlab.course.progress.command:progress", "How far learners are, as CSV"),
    "course similar": ("distlab.course.grade.commands:similar", "Submissions that resemble each other"),
    "course export-learner": ("distlab.course.export:export_learner_copy", "Write the learners' repository"),
}

PARSE_THEIR_OWN = {
    "train",
    "profile run",
    "predict memory",
    "predict step",
    "predict cnn",
    "predict layout",
    "predict collective",
    "predict goodput",
    "predict presets",
}
"""Commands that take the arguments as they are: their options depend on a file that an option names, or they answer
before tyro is imported."""


def main(argv: list[str] | None = None) -> None:
    """Run one command; exits 2 on bad input and 1 where the work failed."""
    args = sys.argv[1:] if argv is None else argv
    name = next((name for name in COMMANDS if args[: len(name.split())] == name.split()), None)
    if name is None:
        sys.exit(_usage(args))
    module, function = COMMANDS[name][0].split(":")
    with _interrupts_end_at_once():
        parses_own = name in PARSE_THEIR_OWN
        if not parses_own:
            import tyro
        command: Callable[..., int | None] = getattr(importlib.import_module(module), function)
    rest = args[len(name.split()) :]
    try:
        code = command(rest) if parses_own else tyro.cli(command, prog=f"distlab {name}", args=rest)
        sys.stdout.flush()
        sys.exit(code)
    except SettingError as error:
        print(f"distlab {name}: {error}", file=sys.stderr)
        sys.exit(2)
    except WorkError as error:
        print(f"distlab {name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich ends a program so, with 1
            sys.exit(141)
        raise


@contextmanager
def _interrupts_end_at_once() -> Iterator[None]:
    """While modules are imported Ctrl-C ends the process: nothing has begun that would have to be cleaned up.

    An exception would not do: some modules swallow it, or make another of it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(130)

    kept = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or kept is not signal.default_int_handler:
        yield  # another handler, or none at all (a job in the background), is somebody's choice
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _usage(args: list[str]) -> int:
    """The commands, or those of the group that was named (`distlab course grading`)."""
    wanted = " ".join(arg for arg in args if not arg.startswith("-"))
    asked_for_help = not args or args[0] in ("-h", "--help") or args[-1] in ("-h", "--help")
    group = [name for name in COMMANDS if f"{name} ".startswith(f"{wanted} ")] if wanted else []
    out = sys.stdout if asked_for_help and (group or not wanted) else sys.stderr
    if wanted and not group:
        import difflib  # only for a message

        nearest = difflib.get_close_matches(wanted, COMMANDS, n=1, cutoff=0.4)
        hint = f" Did you mean `distlab {nearest[0]}`?" if nearest else ""
        print(f"distlab: there is no command {wanted!r}.{hint}\n", file=out)
    listed = group or list(COMMANDS)
    width = max(map(len, listed))
    print("usage: distlab COMMAND [options]   (COMMAND --help for its options)\n", file=out)
    for name in listed:
        print(f"  {name:<{width}}  {COMMANDS[name][1]}", file=out)
    return 0 if out is sys.stdout else 2


if __name__ == "__main__":
    main()
