"""The rows as a Markdown table, one line for each peer."""

import math

HEAD = "| row | against | ours s | peer s | ratio | ours MiB | peer MiB | |\n|---|---|---|---|---|---|---|---|"
STARTS = {  # key of a fact in seconds: what was timed
    "latents_in_memory_s": "latents and X-rays of {start_cases:,} cases from their files into memory",
    "first_epoch_ends_s": "from a warm cache to the end of the first epoch",
    "headers_read_s": "our data module over {headers_cases:,} cases ready, headers read alone,",
}


def lines(rows: list[dict], header: bool = True) -> str:
    """Medians with the minimum and maximum of the repeats in brackets; `ratio` is peer seconds over ours."""
    text = [HEAD] if header else []
    for row in rows:
        name, ours, memory = f"`{row['name']}`", _seconds(row["ours_s"], row["ours_spread"]), f"{row['peak_mb']:.0f}"
        beside = ([row] if row["peer"] else []) + row["others"]
        if not beside:
            text.append(f"| {name} | | {ours} | | | {memory} | | |")
        for peer in beside:
            if "error" in peer:
                text.append(f"| {name} | {peer['peer']} | {ours} | failed: {peer['error'][:80]} | | | | |")
            else:
                seconds = _seconds(peer["peer_s"], peer["peer_spread"]), _seconds(peer["ratio"], peer["ratio_spread"])
                cells = name, peer["peer"], ours, *seconds, memory, f"{peer['peer_peak_mb']:.0f}", notes(row, peer)
                text.append(f"| {' | '.join(cells)} |")
            name = ours = memory = ""  # once a row
    return "\n".join(text)


def notes(row: dict, peer: dict) -> str:
    """Notes beside time and memory: precision, error, share of the peak."""
    ours, theirs = row["ours"], peer["peer_facts"]
    found = [f"{ours['precision']} against {theirs['precision']}"] if "precision" in ours else []
    if "held_out_l1" in ours:
        found.append(f"held-out L1 {ours['held_out_l1']:.4f} against {theirs['held_out_l1']:.4f}")
    if row["device"] == "cpu":
        found.append(f"{_number(peer['cpu_ratio'])} in CPU seconds")
    elif "share_of_peak" in ours and "share_of_peak" in theirs:
        found.append(f"{ours['share_of_peak']:.0%} of the machine's peak against {theirs['share_of_peak']:.0%}")
    for key, words in STARTS.items():
        if key in ours:
            against = f" against {_number(theirs[key])} s" if key in theirs else ""
            found.append(f"{words.format(**ours)} {_number(ours[key])} s{against}")
    found += [str(theirs["note"])] if "note" in theirs else []
    return "; ".join(found)


def _seconds(median: float, spread: list[float]) -> str:
    return f"{_number(median)} ({_number(spread[0])} to {_number(spread[1])})"


def _number(value: float) -> str:
    """Three significant digits."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
