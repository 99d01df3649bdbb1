"""The card of a probe for people: what each variant can do at a glance, then task by task, every seed a dot."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.files.text import to_json
from vgpt.formatting import DASH, format_bytes, wrapping_label
from vgpt.probe.card import INCONCLUSIVE, MISSING, PASSES, Card, CardRow, Spread, TaskCard
from vgpt.probe.plan import ProbePlan
from vgpt.report.figures.probe import draw_card
from vgpt.report.html.page import simple_page
from vgpt.report.layout import new_table

_STRIP = 9
"""Places for the dots of seeds between 0 and 1."""
_COLUMNS = 3
"""Points of the test beside each other on 80 columns."""
_STYLES = {PASSES: "green", INCONCLUSIVE: "yellow", MISSING: "yellow"}


def card_tables(card: Card) -> list[RenderableType]:
    """Return what to print, in order; each table fits 80 columns."""
    parts: list[RenderableType] = []
    if len(card.tasks) > 1:
        parts += [_overview(card), *_overview_caption(card), Text()]
    for task in card.tasks:
        parts += [*_task_tables(task), Text()]
    return [*parts, *_captions(card)]


def _overview(card: Card) -> Table:
    """A row for each variant that was asked for, a column for each task: the accuracy at the training settings."""
    table = new_table("Accuracy at the training settings, mean over seeds", [_name(one) for one in card.tasks])
    asked = dict.fromkeys(row.label for task in card.tasks for row in task.rows if row.asked)
    for label in asked:
        found = [(task, next(row for row in task.rows if row.label == label)) for task in card.tasks]
        table.add_row(Text(wrapping_label(label)), *(_at_a_glance(row) for _, row in found))
    return table


def _name(task: TaskCard) -> str:
    """Return a task for the head of a column: its settings below its name."""
    return task.task.replace(":", "\n", 1).replace(",", "\n")


def _at_a_glance(row: CardRow) -> Text:
    if row.verdict == MISSING:
        return Text(MISSING, "yellow")
    mark = "?" if row.verdict == INCONCLUSIVE else ""
    return Text(f"{row.points[0].mean:.2f}{mark}", _STYLES.get(row.verdict, ""))


def _overview_caption(card: Card) -> list[Text]:
    """Explain the question mark, where there is one."""
    if all(row.verdict != INCONCLUSIVE for task in card.tasks for row in task.rows if row.asked):
        return []
    return [Text(f"?: {INCONCLUSIVE}, the control has not learned the task.", "dim")]


def _task_tables(task: TaskCard) -> Iterator[RenderableType]:
    for start in range(0, len(task.points), _COLUMNS):
        columns = range(start, min(len(task.points), start + _COLUMNS))
        yield _table(task, columns, first=start == 0)
    yield _control(task)
    rates = ", ".join(f"{row.label} {row.lr:g}" for row in task.rows if row.lr is not None)
    tried = ", ".join(f"{lr:g}" for lr in task.recipe.lrs)
    recipe = task.recipe
    yield Text(
        f"{recipe.title}; at most {recipe.steps:,} steps of {recipe.batch_size}; rates {tried}, {task.seeds} "
        f"{'seed' if task.seeds == 1 else 'seeds'} each. Chosen on validation: {rates or DASH}.",
        "dim",
    )


def _table(task: TaskCard, columns: Sequence[int], *, first: bool) -> Table:
    about = task.summary.removeprefix(f"{task.task}: ")
    title = f"{task.task}: {about}" if first else f"{task.task}, more points"
    heads = [task.points[at].replace(", ", "\n").replace(" ", "\n", 1) for at in columns]
    if first:
        heads = ["seeds\n0 to 1", *heads, f"state at\n{task.lengths[0]} tokens"]
    table = new_table(title, heads)
    if first:
        table.add_column("verdict", no_wrap=True)
    for row in task.rows:
        name = Text(wrapping_label(row.label if row.asked else f"{row.label} (control)"))
        spreads = [_spread(row.points[at]) if row.points else Text(DASH) for at in columns]
        if not first:
            table.add_row(name, *spreads)
            continue
        strip = Text(dots(row.points[0].seeds) if row.points else DASH)
        state = format_bytes(row.points[0].state_bytes) if row.points else DASH
        table.add_row(name, strip, *spreads, Text(state), Text(row.verdict, _STYLES.get(row.verdict, "")))
    return table


def _spread(one: Spread) -> Text:
    """Return the mean, and below it the lowest and the highest seed."""
    text = Text(f"{one.mean:.3f}", "bold")
    if len(one.seeds) > 1:
        text.append(f"\n{one.low:.2f}-{one.high:.2f}", "not bold dim")
    return text


def dots(values: Sequence[float]) -> str:
    """Return a strip from 0 to 1 with a dot for each value; a digit where several fall on one place."""
    counts = [0] * _STRIP
    for value in values:
        counts[round(value * (_STRIP - 1))] += 1
    return "".join("·" if n == 0 else "•" if n == 1 else str(min(n, 9)) for n in counts)


def _control(task: TaskCard) -> Text:
    """Say whether the control has learned the task, and what follows where it has not."""
    if task.control is None:
        return Text(f"No verdict: trainings of the control, {task.control_label}, are missing.", "yellow")
    reached = f"Control {task.control_label}: {task.control:.3f} on validation, {task.needed:g} needed"
    if task.conclusive:
        return Text(f"{reached}. Chance: {task.chance:.3g}.", "dim")
    return Text(
        f"{INCONCLUSIVE}: {reached[0].lower()}{reached[1:]}. That others fail may be their training's fault: "
        "try more --steps, other --lrs, or an easier task.",
        "bold yellow",
    )


def _captions(card: Card) -> list[Text]:
    facts = "; ".join(f"{name} {value}" for name, value in card.facts.items())
    about = (
        "Bold: mean test accuracy over seeds at the rate that validation chose, below it the lowest and the highest "
        "seed. State: what the mixers keep of one sequence, float32; a convolution before them keeps two vectors "
        "more, whatever the variant."
    )
    return [Text(f"{about} {facts}.", "dim")]


def plan_table(plan: ProbePlan) -> Table:
    """Return a table of what a probe would train, a row per task."""
    columns = ["trainings", "on record", "steps\nat most", "length", "points of\nthe test"]
    table = new_table("Plan", columns, words="control")
    table.columns[0].header = "task"
    for one in plan.tasks:
        trials = [trial for subject in one.subjects for trial in subject.trials]
        done = sum(trial in plan.outcomes for trial in trials)
        control = next(subject.label for subject in one.subjects if subject.control)
        numbers = [len(trials), done, one.recipe.steps, one.task.length, len(one.recipe.points)]
        table.add_row(Text(wrapping_label(one.recipe.task)), *(Text(f"{n:,}") for n in numbers), Text(control))
    return table


def seed_table(card: Card) -> Table:
    """Return a table with every number of every seed, for the page."""
    columns = ["learning rate", "steps", "point", "accuracy of each seed", "state in bytes"]
    table = new_table("Every seed", columns)
    for task in card.tasks:
        for row in task.rows:
            for label, point in zip(task.points, row.points, strict=False):
                seeds = ", ".join(f"{value:.4f}" for value in point.seeds)
                steps = DASH if row.steps is None else f"{row.steps:.0f}"
                cells = [f"{row.lr:g}", steps, label, seeds, f"{point.state_bytes:,}"]
                table.add_row(Text(f"{task.task} {row.label}"), *map(Text, cells))
    return table


def card_page(card: Card) -> str:
    """Return the card as a page for a browser: tables, figures, every seed."""
    return simple_page(
        f"vgpt probe: {', '.join(card.labels)}",
        card_tables(card),
        made=card.made,
        figures=draw_card(card),
        closing=[seed_table(card), *_sources(card)],
    )


def card_files(card: Card) -> dict[str, bytes]:
    """Return the card as files: for programs, and for a browser."""
    return {
        "probe.json": f"{to_json(card.as_json())}\n".encode(),
        "probe.html": card_page(card).encode(),
    }


def _sources(card: Card) -> list[Text]:
    return [Text(f"{task.task}: {task.source}.", "dim") for task in card.tasks if task.source]
