"""Draws the loss over the length of training: the trunk as a line, and each cooldown that leaves it.

usage: cooldown_figure.py FOLDER FIGURE.svg

FOLDER has a folder for each training, as `vadpipe export` writes it. Needs nothing but vadpipe.
"""

import math
import sys
from pathlib import Path

import vadpipe

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 72, 24, 24, 56


def read(folder):
    """The points (epoch, loss) of each training, and the epochs before its cooldown, the longest one last."""
    trainings = []
    for net in vadpipe.Artifact(folder).members.values():
        rates, losses = net.history["lr"], net.history["test_loss"]
        trunk = sum(rate == rates[0] for rate in rates)
        trainings.append((list(enumerate(losses, 1)), trunk))
    return sorted(trainings, key=lambda training: len(training[0]))


def draw(trainings):
    longest, start = trainings[-1]
    # The fall of the first epochs would hide the rest.
    trunk = longest[min(3, start - 1) : start]
    branches = [points[start - 1 :] for points, start in trainings]
    last, top = len(longest), max(loss for points in [trunk, *branches] for _, loss in points)
    ticks = numbers_between(min(loss for points in branches for _, loss in points), top)
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(epoch):
        return LEFT + across * epoch / last

    def y(loss):
        return TOP + up * math.log(top / loss) / math.log(top / ticks[0])

    def line(points, style):
        return f'<polyline points="{" ".join(f"{x(e):.1f},{y(loss):.1f}" for e, loss in points)}" {style}/>'

    parts = [line(trunk, 'stroke="#555" stroke-width="2"')]
    for points in branches:
        end, loss = points[-1]
        parts += [line(points, 'stroke="#d55e00" stroke-width="2"')]
        parts += [f'<circle cx="{x(end):.1f}" cy="{y(loss):.1f}" r="4" fill="#d55e00" stroke="none"/>']
    parts += [f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#999"/>']
    text = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    ends = [points[-1][0] for points in branches]
    labels = [text.format(x(end), HEIGHT - BOTTOM + 20, "middle", end) for end in ends]
    labels += [text.format(LEFT - 8, y(loss) + 4, "end", f"{loss:.2g}") for loss in ticks]
    labels += [text.format(LEFT + across / 2, HEIGHT - 12, "middle", "epochs")]
    labels += [text.format(LEFT, TOP - 10, "middle", "test loss")]
    labels += [text.format(WIDTH - RIGHT, TOP + 16, "end", "gray: constant rate; orange: cooldowns")]
    lines, words = "\n".join(parts), "\n".join(labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f'<g fill="none">\n{lines}\n</g>\n<g fill="#333">\n{words}\n</g>\n</svg>\n'
    )


def numbers_between(bottom, top):
    """The numbers with one digit up to `top`, from the last one below `bottom`."""
    numbers = [digit * 10.0**power for power in range(-9, 9) for digit in range(1, 10)]
    first = sum(number <= bottom for number in numbers) - 1
    return [number for number in numbers[first:] if number <= top]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(read(Path(sys.argv[1]))))
