"""A task in a few words, for people."""

from __future__ import annotations

from .task import Task


def title(task: Task) -> str:
    """Such as "conv 3x3/2 64→128 @56x56" or "gemm 128x384x1536" (rows x reduction x columns)."""
    p = task.params
    match task.family:
        case "gemm":
            batch = f"{p['batch']} of " if p["batch"] > 1 else ""
            return f"gemm {batch}{p['m']}x{p['k']}x{p['n']}"
        case "conv":
            groups = f" in {p['groups']} groups" if p["groups"] > 1 else ""
            return f"conv {_window(task)} {p['groups'] * p['ic']}→{p['groups'] * p['oc']}{groups} @{p['ih']}x{p['iw']}"
        case "depthwise":
            return f"depthwise {_window(task)} {p['c']} @{p['ih']}x{p['iw']}"
        case "attention":
            return f"attention {p['heads']} heads of {p['d']}, {p['nq']}x{p['nk']}"
    shapes = "x".join(map(str, task.buffers[task.outputs[0]].shape)) if task.outputs else ""
    return f"{task.family} {shapes}".strip()


def _window(task: Task) -> str:
    p = task.params
    stride = f"/{p['sh']}" if p["sh"] > 1 else ""
    dilation = f" dilated {p['dh']}" if p["dh"] > 1 else ""
    return f"{p['kh']}x{p['kw']}{stride}{dilation}"
