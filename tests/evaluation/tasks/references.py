"""What each task is by its definition, in plain Python: instances read token by token, in no way as they were drawn.

`ANSWERS[kind](task, inputs, asked)` reads the inputs of one instance and returns {position: what to say there}. Which
positions are asked is used only where the inputs do not tell. `CONTENTS[kind](task, inputs)` returns what makes the
instance another one.
"""

ANSWERS, CONTENTS = {}, {}


def reads(kind, content):
    def keep(function):
        ANSWERS[kind], CONTENTS[kind] = function, content
        return function

    return keep


@reads("mqar", lambda task, row: tuple(row[: 2 * task.n_pairs]))
def mqar(task, row, asked):
    half, start = task.vocab_size // 2, 2 * task.n_pairs
    told = {}
    for i in range(0, start, 2):
        key, value = row[i], row[i + 1]
        assert 1 <= key < half <= value < task.vocab_size
        assert key not in told
        told[key] = value
    # The filling is random and may hold keys: where the queries are, only the targets say.
    assert sorted(row[i] for i in asked) == sorted(told)
    assert all(i >= start and (i - start) % 2 == 0 for i in asked)
    return {i: told[row[i]] for i in asked}


@reads("stacked-mqar", lambda task, row: tuple(row[: task.n_pairs]))
def stacked_mqar(task, row, asked):
    pairs, told, answers = task.n_keys * task.n_values, {}, {}
    for i, token in enumerate(row):
        if token < pairs:
            assert i < task.n_pairs
            key, value = divmod(token, task.n_values)
            assert key not in told
            told[key] = value
        elif token < pairs + task.n_keys:
            answers[i] = told.pop(token - pairs)
        else:
            assert token == pairs + task.n_keys
    assert not told
    return answers


@reads("induction", lambda task, row: segment(row))
def induction(task, row, asked):
    """A token that has come exactly once, with its successor then equal now, is where the segment goes on."""
    answers = {}
    for t in range(1, len(row)):
        before = [s for s in range(t) if row[s] == row[t]]
        if t in asked:
            assert len(before) == 1
            answers[t] = row[before[0] + 1]
    first, last = min(asked), max(asked)
    assert asked == list(range(first, first + task.n_segment - 1))
    copy = row[first : last + 2]
    assert len(set(copy)) == task.n_segment
    start = row.index(copy[0])
    assert row[start : start + task.n_segment] == copy
    rest = row[:start] + row[start + task.n_segment : first] + row[last + 2 :]
    assert not set(rest) & set(copy)
    return answers


def segment(row):
    """The longest run of tokens that comes twice."""
    best = ()
    for s in range(len(row)):
        for t in range(s + 1, len(row)):
            n = 0
            while t + n < len(row) and s + n < t and row[s + n] == row[t + n]:
                n += 1
            if n > len(best):
                best = tuple(row[s : s + n])
    return best


@reads("selective-copy", lambda task, row: tuple(token for token in row if 0 < token < task.vocab_size - 1))
def selective_copy(task, row, asked):
    mark = task.vocab_size - 1
    seen = [token for token in row if token not in (0, mark)]
    marks = [i for i, token in enumerate(row) if token == mark]
    assert len(seen) == len(marks) == task.n_copy
    assert marks == list(range(len(row) - task.n_copy, len(row)))
    return dict(zip(marks, seen, strict=True))


@reads("noisy-recall", lambda task, row: tuple(token for token in row if token < task.n_keys + task.n_values))
def noisy_recall(task, row, asked):
    told, answers, noise = {}, {}, 0
    for i in range(0, len(row), 2):
        key, value = row[i], row[i + 1]
        if key >= task.n_keys + task.n_values:
            noise += 1
            assert value >= task.n_keys + task.n_values
            continue
        assert key < task.n_keys <= value < task.n_keys + task.n_values
        if key in told:
            answers[i] = told[key]
        assert told.setdefault(key, value) == value
    assert noise == round(task.noise * (len(row) // 2 - 2))
    assert len(row) - 2 in answers
    return answers


@reads("parity", lambda task, row: tuple(row))
def parity(task, row, asked):
    answers, ones = {}, 0
    for i, bit in enumerate(row):
        ones += bit == 1
        answers[i] = 1 if ones % 2 else 0
    return answers


def word_problem(points, even):
    """Multiply permutations as lists of images: the first factor is applied last."""

    def sign(images):
        swaps, images = 0, list(images)
        for i in range(len(images)):
            while images[i] != i:
                j = images[i]
                images[i], images[j] = images[j], images[i]
                swaps += 1
        return swaps % 2

    def all_orders(rest):
        return [[x, *tail] for x in rest for tail in all_orders([y for y in rest if y != x])] if rest else [[]]

    group = [order for order in all_orders(list(range(points))) if not even or sign(order) == 0]

    def answer(task, row, asked):
        answers, product = {}, list(range(points))
        for i, token in enumerate(row):
            product = [product[image] for image in group[token]]
            answers[i] = group.index(product)
        return answers

    return answer


reads("s3", lambda task, row: tuple(row))(word_problem(3, even=False))
reads("a5", lambda task, row: tuple(row))(word_problem(5, even=True))


@reads("passkey", lambda task, row: tuple(row[row.index(10) + 1 :][: task.n_digits]))
def passkey(task, row, asked):
    at, query = row.index(10), row.index(11)
    digits = row[at + 1 : at + 1 + task.n_digits]
    assert all(digit < 10 for digit in digits)
    assert row[query + 1 :] == digits[:-1]
    filling = row[:at] + row[at + 1 + task.n_digits : query]
    assert all(12 <= token < 12 + task.n_filling for token in filling)
    if task.depth is not None:
        assert abs(at - task.depth * len(filling)) <= 0.5
    return {query + i: digit for i, digit in enumerate(digits)}
