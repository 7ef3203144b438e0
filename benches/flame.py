#!/usr/bin/env python3
"""Draws a flame graph: where CPU time goes, by call stack.

usage: perf script -F comm,ip,sym | flame.py --title TEXT > graph.svg

Width is a share of samples, callers are below callees, neighbours are in alphabetical order. Frames of less than --least percent are
left out, and names are shortened to what tells them apart; pointing at a frame shows name and share. Needs nothing but Python 3.
"""
import argparse, html, re, sys

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--title", default="CPU time")
ap.add_argument("--least", type=float, default=0.4, help="percent")
ap.add_argument("--under", help="only stacks that have a frame of this name, from there on")
a = ap.parse_args()
WIDTH, ROW, MARGIN = 1400, 17, 10
# Frames that are in every stack, or say nothing of their own.
DULL = re.compile(r"^(__libc_start|_start|start_thread|clone|std::rt|std::sys|std::thread|std::panic|core::ops::function|"
                  r"<alloc::boxed::Box|alloc::boxed|tokio::runtime|<tokio::runtime|tokio::task|<tokio::task|core::panic|<core::panic|"
                  r"__rust_|std::panicking|entry_SYSCALL|do_syscall|x64_sys_call|<futures_util|futures_util|<core::pin|<core::future|"
                  r"<core::iter|core::iter|<alloc::vec|parking_lot::condvar|<hyper_util|<F as |<&mut |\[unknown\])")


def short(name):
    """`block::merge::merge` of `<block::merge::X as core::Y<Z>>::merge::h0123456789abcdef`."""
    name = re.sub(r"::h[0-9a-f]{16}$", "", name)
    name = name.replace("{{closure}}", "{}").replace("{closure#0}", "{}")
    while (less := re.sub(r"(::)?<[^<>]*>", lambda m: inner(m.group(0)), name)) != name:
        name = less
    return re.sub(r"\+0x[0-9a-f]+$", "", name)


def inner(text):
    """Of `<A as B>` and `<A>` at a path's begin the type, of type arguments nothing."""
    found = re.match(r"^<(?:&(?:mut )?)?([\w:]+)(?: as [^<>]*)?>$", text)
    return found.group(1) if found and " as " in text else ""


def stacks(lines):
    """(thread, frames from the outermost) of each sample."""
    thread, frames = None, []
    for line in lines:
        if not line.strip():
            if thread is not None:
                yield thread, frames[::-1]
            thread, frames = None, []
        elif not line[0].isspace():
            thread = line.strip()
        else:
            name = line.split(None, 1)
            frames.append(name[1].strip() if len(name) > 1 else "[unknown]")
    if thread is not None:
        yield thread, frames[::-1]


class Frame:
    def __init__(self):
        self.samples, self.callees = 0, {}

    def add(self, names):
        self.samples += 1
        if names:
            self.callees.setdefault(names[0], Frame()).add(names[1:])


def colour(name):
    kinds = (("block::", 205), ("parquet", 280), ("arrow", 255), ("zstd", 325), ("ZSTD", 325), ("HUF_", 325), ("FSE_", 325), ("proto::", 170),
             ("ingester", 140), ("wal::", 95), ("query::", 140), ("datafusion", 60), ("hyper", 35), ("h2", 35), ("tokio", 35), ("_rjem", 0), ("je_", 0))
    hue = next((hue for prefix, hue in kinds if prefix in name), 48)
    return f"hsl({hue + sum(map(ord, name)) % 14},65%,{70 + sum(map(ord, name)) % 9}%)"


def draw(frame, depth, left, total, out):
    deepest = depth
    for name, callee in sorted(frame.callees.items()):
        width = callee.samples / total * WIDTH
        if 100 * callee.samples / total >= a.least:
            out.append((depth, left, width, name, callee.samples))
            deepest = max(deepest, draw(callee, depth + 1, left, total, out))
        left += width
    return deepest


def main():
    root = Frame()
    for thread, frames in stacks(sys.stdin):
        names = [short(frame) for frame in frames if not DULL.match(frame)]
        # A function and its closures are one frame.
        names = [re.sub(r"(::\{\})+$", "", name) for name in names]
        names = [name for at, name in enumerate(names) if name and (at == 0 or name != names[at - 1])]
        if a.under:
            at = next((at for at, name in enumerate(names) if a.under in name), None)
            if at is None:
                continue
            names = names[at:]
        root.add(names or [thread])
    boxes = []
    rows = draw(root, 0, 0.0, max(root.samples, 1), boxes) + 1
    high = rows * ROW + 50
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{high}" font-family="monospace" font-size="11">'
          f'<rect width="100%" height="100%" fill="#fff"/><text x="{MARGIN}" y="20" font-size="14">{html.escape(a.title)}'
          f' ({root.samples} samples)</text>')
    for depth, left, width, name, samples in boxes:
        x, y = MARGIN + left, high - 20 - (depth + 1) * ROW
        fits = int(width / 6.7)
        text = name if len(name) <= fits else "::".join(name.split("::")[-2:])[:fits] if fits > 3 else ""
        print(f'<g><title>{html.escape(name)} {100 * samples / root.samples:.1f} %</title>'
              f'<rect x="{x:.1f}" y="{y}" width="{max(width - .4, .2):.1f}" height="{ROW - 1}" fill="{colour(name)}"/>'
              + (f'<text x="{x + 2:.1f}" y="{y + 12}">{html.escape(text)}</text>' if text else "") + "</g>")
    print("</svg>")


main()
