"""How numbers and labels are written for people: units, signs, percentages, times."""

DASH = "-"


def format_count(value: float) -> str:
    """Return a count with a decimal suffix, four digits at most: 812, 10.34M, 1.2G."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"), "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 seed, 2 seeds, 1,024 windows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(value: float) -> str:
    """Return a size in binary units: 768 B, 3 KiB, 1.5 MiB."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), " ")


def format_milliseconds(seconds: float) -> str:
    """Return a short time: `0.84 ms`."""
    return f"{1000 * seconds:.3g} ms"


def format_percent(value: float) -> str:
    """Return a share: 12.3%."""
    return f"{100 * value:.1f}%"


def format_relative(value: float) -> str:
    """Return a relative change: +12.3%, or `=` where there is none at all."""
    return "=" if value == 0 else f"{100 * value:+.1f}%"


def format_change(value: float) -> str:
    """Return an absolute change of a loss."""
    return "=" if value == 0 else f"{value:+.4f}"


def format_p(value: float) -> str:
    """Return a p-value."""
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def _scaled(value: float, base: int, units: tuple[str, ...], space: str) -> str:
    power = 0
    while abs(value) >= base and power < len(units) - 1:
        value /= base
        power += 1
    digits = f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{digits}{space}{units[power]}"


def format_duration(seconds: float) -> str:
    """Return a duration with the two units that matter: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


UNKNOWN = "unknown until the first has run"


def format_time(seconds: float | None) -> str:
    """Return an expected time in words."""
    return UNKNOWN if seconds is None else f"about {format_duration(seconds)}"


def wrapping_label(label: str) -> str:
    """Return a row's label with spaces, so that a long one can wrap: `gqa n_kv_head=2`."""
    return label.replace(":", " ", 1).replace(",", " ")


def printable(text: str) -> str:
    """Return a text in one line, without control codes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def flag_of(name: str) -> str:
    """Return the option that sets a setting: `n_kv_head` -> `--n-kv-head`; `from_`, a keyword of Python, `--from`."""
    return "--" + name.rstrip("_").replace("_", "-")
