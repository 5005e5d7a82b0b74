"""Values as people read them: text without control characters, sizes, durations, sentences. It imports nothing."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move a terminal's cursor, change its state or turn the direction of text, and lone surrogates, which
are not characters. Tabs and line feeds are harmless."""


def printable(text: str, replacement: str = "") -> str:
    """Return the text without the characters that control a terminal or a page.

    `replacement`: the text that takes the place of each such character.
    """
    return _UNPRINTABLE.sub(replacement, text)


def one_line(text: str) -> str:
    """Return a text on one line: all white space becomes single spaces."""
    return " ".join(text.split())


def shorten(text: str, limit: int) -> str:
    """Return the first `limit` characters, and "…" if there are more."""
    return text if len(text) <= limit else text[:limit].rstrip() + "…"


def sentence(text: str) -> str:
    """Return a message with a capital letter and a full stop. Most messages of the server have neither."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "`")) else ".")


def counted(count: int, thing: str, things: str = "") -> str:
    """Return a number and its noun: "1 job", "1,234 jobs". `things`: the plural, unless it is `thing` with an s."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def exit_code(code: int | None) -> str:
    """Return an exit code, with the name of the signal that it stands for as shells have it: "3", "137 (SIGKILL)"."""
    if code is None or code <= 128:
        return str(code)
    try:
        return f"{code} ({signal.Signals(code - 128).name})"
    except ValueError:
        return str(code)


def size(count: float) -> str:
    """Return a number of bytes with three digits and its unit, in powers of ten: "999 bytes", "1.23 MB", "12.3 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:.3g} GB" if count < 999.5 else f"{count:,.0f} GB"


def usage_in_words(app: str, memory_in_gb: float | None, jobs: int, memory: Mapping[str, float] | None) -> str:
    """Return what an app asks for and has used: "Blast asks for 8 GB, and has used at most 1.1 GB in 4,000 jobs."

    `memory`: with the key `most`, in bytes; None if it is not known.
    """
    asks = f"{app} asks for {'all memory of a host' if memory_in_gb is None else f'{memory_in_gb:g} GB'}"
    if memory is None:
        return f"{asks}. Nothing is known yet of what its jobs use."
    return f"{asks}, and has used at most {size(memory['most'])} in {counted(jobs, 'job')}."


def percent(part: float) -> str:
    """Return a part of a whole in percent: "0 %", "0.3 %", "33.3 %", "100 %"."""
    return f"{round(100 * part, 1):g} %"


def batch_policy(
    held: bool = False,
    priority: int | None = None,
    max_running: int | None = None,
    held_because: str | None = None,
    canary: int | None = None,
) -> str:
    """Return what was decided about a batch: "held, priority 5, at most 3 at once"; empty if nothing was."""
    parts = [f"held: {held_because}" if held_because else "held"] if held else []
    parts += [f"priority {priority}"] if priority is not None else []
    parts += [f"at most {max_running:,} at once"] if max_running is not None else []
    parts += [f"tried by {counted(canary, 'job')}"] if canary else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time span in at most two units: "0.12 s", "59.4 s", "1 min 30 s", "1 h 2 min", "2 d 3 h"."""
    seconds = max(seconds, 0)
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
