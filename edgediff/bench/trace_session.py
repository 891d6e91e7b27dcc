"""The events of a session's profile, as a trace shows them: runs, nodes, and kernels inside of nodes.

OpenVINO's plug-in tells its kernels as well, with the instructions that they were compiled to (such as
``brgconv_avx512_amx_bf16``), which shows in what precision they compute. Their lengths, though, are means
over all runs of the session so far; what a kernel took in this run is the way to the next one's start.
(Version 1.8.1, eight runs of a U-Net of 363 kernels: n times the mean of n runs less n - 1 times the one
before is that way, to within 11 microseconds.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgediff.bench import trace_work
from edgediff.bench.html_tables import short

Event = dict[str, Any]


def events(told: Sequence[Mapping[str, Any]], offset: float) -> list[Event]:
    """Return a profile's events, ``offset`` microseconds later; of a node's many arguments those that tell
    what it computed."""
    own = [each for each in told if each.get("ph") == "X"]
    found = [_event(each, offset) for each in own if each.get("cat") != "Kernel"]
    nodes = [(each["ts"], each["ts"] + each["dur"]) for each in own if each.get("cat") == "Node"]
    return [*found, *_kernels([each for each in own if each.get("cat") == "Kernel"], nodes, offset)]


def _event(told: Mapping[str, Any], offset: float) -> Event:
    name, own = str(told["name"]), told.get("args", {})
    event: Event = {"name": name, "cat": "onnxruntime", "ts": told["ts"] + offset, "dur": told["dur"]}
    if told.get("cat") != "Node":
        return event
    kind, provider = str(own.get("op_name", "node")), str(own.get("provider", ""))
    if provider and kind.startswith(provider):  # what a compiler took has a name made of numbers
        event["name"] = kind = f"{short(provider)} subgraph"
    else:
        event["name"] = f"{kind} {name.removesuffix('_kernel_time')}"
    event["args"] = {
        "op_type": kind, "provider": own.get("provider"),
        "inputs": trace_work.written(own.get("input_type_shape")),
        "outputs": trace_work.written(own.get("output_type_shape")),
    }  # fmt: skip
    work = trace_work.flops(own)
    if work is not None:
        event["args"]["flops"] = work
        if told["dur"] > 0:
            event["args"]["gflops_per_second"] = round(work / told["dur"] / 1000, 1)
    return event


def _kernels(
    told: Sequence[Mapping[str, Any]], nodes: Sequence[tuple[float, float]], offset: float
) -> Iterator[Event]:
    """Kernels of each run, each up to the start of the next; the last one up to its node's end at most."""
    runs: dict[Any, list[Mapping[str, Any]]] = {}
    for each in told:
        runs.setdefault(each.get("args", {}).get("ort_correlation_id"), []).append(each)
    for run in runs.values():
        ordered = sorted(run, key=lambda e: float(e["ts"]))
        last = ordered[-1]
        ends = [end for start, end in nodes if start <= last["ts"] <= end]
        starts = [*(e["ts"] for e in ordered[1:]), min([last["ts"] + last["dur"], *ends])]
        for here, end in zip(ordered, starts, strict=True):
            own = here.get("args", {})
            yield {
                "name": f"{own.get('ov_node_type', 'kernel')} {str(here['name']).removeprefix('OV::')}",
                "cat": "kernel", "ts": here["ts"] + offset, "dur": end - here["ts"],
                "args": {"kernel": own.get("ov_exec_type"), "provider": own.get("ep")},
            }  # fmt: skip
