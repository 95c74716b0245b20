"""What the dashboard costs: server time and bytes of its views and polls, and the time in Chromium.

20 studies of 5,000 evaluations each in PostgreSQL, of 24 bits and 12 thresholds: 50 a trial,
recorded as a worker does; 19 studies are copies of the first one's rows. ``exitbits serve`` runs as
a process of its own and is asked over HTTP for what a page asks for. Beside it optuna-dashboard on
the same store; since that shows trials, and 49 of 50 evaluations are none, also on a study each of
whose evaluations is a trial.
"""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import create_trial
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from rich.table import Table

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "dashboards"), str(TESTS), str(TESTS / "benchmarks")]

from common import machine, parse, show, spread
from conftest import FLAGS
from dash_client import CALLBACK, callback_body
from postgres import Postgres, free_port, new_database
from running import command_env, command_line
from store import record_of_study, wide_ledger

from dashboards.security import CSRF_COOKIE, CSRF_HEADER
from search.policy import Policy
from search.results import Evaluation, evaluate_trace
from search.tasks import resolve_task
from search.trace import ExitTrace
from studies.records import EvaluationRow
from studies.store.schema import evaluations, trials
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

EVALUATIONS = 50
NEWS = 100
SAMPLES = 200
WAIT_MS = 120_000
TARGETS_MS = {"first view": 1000, "poll without news": 50, "poll with news": 100}
CACHES = (
    ("not read yet, empty browser cache", False),
    ("read, empty browser cache", False),
    ("read, filled browser cache", True),
)
TASK = resolve_task("classification")

OPTUNA_DASHBOARD = """
import sys, waitress, optuna_dashboard
from studies.store.database import Database
from studies.store.optuna_storage import StoreStorage
app = optuna_dashboard.wsgi(StoreStorage(Database(sys.argv[1], create=False)))
server = waitress.create_server(app, host="127.0.0.1", port=int(sys.argv[2]), threads=8)
print(f"http://127.0.0.1:{server.effective_port}", flush=True)
try:
    server.run()
except KeyboardInterrupt:
    pass
"""
OURS_IS_THERE = """() => {
  const gd = document.querySelector('#front-figure .js-plotly-plot');
  return gd?.querySelector('.scatterlayer .points path') && gd.querySelector('canvas') &&
    document.querySelector('#front-table .ag-row') && performance.now()}"""
OVERVIEW_IS_THERE = """count =>
  document.querySelectorAll('#studies-table tbody tr').length === count && performance.now()"""
THEIR_LIST_IS_THERE = """count =>
  document.querySelectorAll('a[href*="/studies/"]').length >= count && performance.now()"""
THEIR_FRONT_IS_THERE = """() => {
  const gd = document.querySelector('#graph-pareto-front');
  return gd?._fullData?.length && gd.querySelector('.points path, canvas') && performance.now()}"""


# The store


def passes(policy: Policy, count: int, rng: np.random.Generator) -> list[Evaluation]:
    """A made-up pass of a policy's bits: the policy itself, and other thresholds on its trace."""
    bits = np.mean(policy.bits.weights + policy.bits.activations) / 8
    depth = np.linspace(0.55, 1.0, 13)
    hard = rng.random((SAMPLES, 1))
    right = hard < (0.6 + 0.35 * bits) * depth
    sure = np.clip(0.3 + 0.6 * depth - 0.5 * hard + 0.1 * rng.random((SAMPLES, 13)), 0, 1)
    statistic = np.stack([right, np.ones_like(right)], axis=-1).astype(np.int32)
    trace = ExitTrace(sure.astype(np.float32), statistic, tuple(range(1, 14)))
    found = [policy]
    for level in np.linspace(0.3, 1.0, count - 1):
        thresholds = np.clip(level + rng.normal(0, 0.05, 12), 0.3, 1.0)
        found.append(policy.with_thresholds([*thresholds.tolist(), 0.0]))
    return [evaluate_trace(one, trace, wide_ledger(), TASK) for one in found]


def grow(store: StudyStore, name: str, count: int) -> None:
    """Claim and record as a worker does."""
    proposer = Proposer(store, store.get(name), "bench")
    for _ in range(count):
        claim = proposer.claim("bench")
        assert claim is not None
        rng = np.random.default_rng(claim.lease.trial_id)
        first, *others = passes(claim.policy, EVALUATIONS, rng)
        store.record(claim, first, *(("harvest", one) for one in others))


def filled(address: str, studies: int, evaluations: int) -> list[str]:
    """Make the studies: record the first as a worker does, and copy its rows for the others."""
    store = StudyStore(address, create=True)
    names = [f"study {number:02d}" for number in range(1, studies + 1)]
    for name in names:
        store.create(record_of_study(name, 2 * evaluations))
    grow(store, names[0], evaluations // EVALUATIONS)
    with store.database.engine.begin() as connection:
        for name in names[1:]:
            for statement in _copying():
                connection.exec_driver_sql(statement, {"old": names[0], "new": name})
    with store.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("analyze")
    store.database.engine.dispose()
    return names


def _copying() -> list[str]:
    """Statements that give a study the trials and the evaluations of another."""
    pair = "studies old, studies new"
    named = "old.name = %(old)s and new.name = %(new)s"
    t = [one.name for one in trials.c if one.name not in ("id", "study_id")]
    e = [one.name for one in evaluations.c if one.name not in ("id", "study_id", "trial_id")]
    counters = ("revision", "trials", "claimed")
    return [
        f"insert into trials (study_id, {', '.join(t)}) select new.id, "
        f"{', '.join(f't.{one}' for one in t)} from trials t, {pair} "
        f"where t.study_id = old.id and {named} order by t.id",
        f"insert into evaluations (study_id, trial_id, {', '.join(e)}) select new.id, c.id, "
        f"{', '.join(f'e.{one}' for one in e)} from evaluations e, trials t, trials c, {pair} "
        f"where e.study_id = old.id and e.trial_id = t.id and c.study_id = new.id "
        f"and c.number = t.number and {named} order by e.id",
        f"update studies new set {', '.join(f'{one} = old.{one}' for one in counters)} "
        f"from studies old where {named}",
    ]


def filled_with_trials(address: str, rows: Sequence[EvaluationRow]) -> None:
    """Make a study with a trial for each evaluation, through Optuna's own interface."""
    store = StudyStore(address, create=True)
    record = record_of_study("trials", len(rows))
    store.create(record)
    study = optuna.load_study(study_name="trials", storage=store.storage)
    whole, real = IntDistribution(2, 8), FloatDistribution(0.3, 1.0)
    for row in rows:
        params = record.space.encode(row.policy)
        ranges = {key: real if key.startswith("t.") else whole for key in params}
        study.add_trial(
            create_trial(params=params, distributions=ranges, values=[row.value, row.gbops])
        )
    store.database.engine.dispose()


# The servers, and what a browser asks of them


@dataclass(frozen=True)
class Server:
    """A server in a process of its own.

    Attributes:
        address: that it printed.
        number: of the process.
    """

    address: str
    number: int

    def cpu_ms(self) -> float:
        """What all its threads have used of processors, to the nanosecond."""
        tasks = Path(f"/proc/{self.number}/task").glob("*/schedstat")
        return sum(int(one.read_text().split()[0]) for one in tasks) / 1e6


@contextmanager
def served(command: Sequence[str]) -> Iterator[Server]:
    """Run a server that prints its address."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, cwd=folder, env=command_env(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert "http://" in line, line
            yield Server("http://" + line.split("http://")[1].split(",")[0].strip(), process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
            process.stdout.close()


def ours(address: str) -> Any:
    """``exitbits serve`` on a store."""
    return served(command_line(["serve", "--store", address, "--port", "0"]))


def theirs(address: str) -> Any:
    """optuna-dashboard on the same store."""
    return served([sys.executable, "-c", OPTUNA_DASHBOARD, address, str(free_port())])


@dataclass(frozen=True)
class Cost:
    """Of one or of several requests.

    Attributes:
        ms: from the first byte sent to the last byte read.
        cpu_ms: of the server's process meanwhile, whoever else uses the core.
        sent: bytes of the bodies sent.
        compressed, plain: bytes of the answers on the wire, and unpacked.
    """

    ms: float = 0.0
    cpu_ms: float = 0.0
    sent: int = 0
    compressed: int = 0
    plain: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(_figures(self), _figures(other), strict=True)))


def _figures(cost: Cost) -> list[Any]:
    return list(asdict(cost).values())


class Visitor:
    """Speaks HTTP as a page in a browser does, on one connection.

    Args:
        server: which, and where.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        address = server.address
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=600)
        # What Chromium accepts over plain HTTP from another machine.
        self._headers = {"Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
        self._callbacks: Any = None

    def ask(self, path: str, body: Any = None) -> tuple[Cost, int, bytes]:
        """Get ``path``, or post ``body`` to it; the cost, the status and the answer unpacked."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = self._headers | ({} if data is None else {"Content-Type": "application/json"})
        used, started = self._server.cpu_ms(), time.perf_counter()
        self._connection.request("GET" if data is None else "POST", path, data, headers)
        answer = self._connection.getresponse()
        wire = answer.read()
        ms = 1000 * (time.perf_counter() - started)
        used = self._server.cpu_ms() - used
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            if name == CSRF_COOKIE:
                self._headers |= {"Cookie": f"{name}={value}", CSRF_HEADER: value}
        packed = answer.headers.get("Content-Encoding") == "gzip"
        plain = gzip.decompress(wire) if packed else wire
        return Cost(ms, used, len(data or b""), len(wire), len(plain)), answer.status, plain

    def open(self) -> Cost:
        """What every page begins with, without scripts and styles, which browsers keep."""
        cost = self.ask("/")[0] + self.ask("/_dash-layout")[0]
        more, status, found = self.ask("/_dash-dependencies")
        assert status == 200, status
        listed = {one["output"]: one for one in json.loads(found)}
        self._callbacks = SimpleNamespace(callback_map=listed)
        return cost + more

    def call(self, output: str, pressed: str, values: dict[str, Any]) -> tuple[Cost, Any]:
        """Call back; the cost and what came by component, None where nothing changed."""
        if "@" in output:  # a further callback of an output has a name with a digest
            firsts = [key.strip(".").split("...")[0] for key in self._callbacks.callback_map]
            (output,) = [one for one in firsts if one.startswith(output)]
        body = callback_body(self._callbacks, output, values, pressed)
        cost, status, found = self.ask(CALLBACK, body)
        assert status in (200, 204), (output, status, found[:200])
        return cost, json.loads(found)["response"] if status == 200 else None


class FrontPage:
    """The page of a study, as far as it speaks to the server.

    Args:
        visitor: that opened the dashboard.
        name: of the study.
    """

    def __init__(self, visitor: Visitor, name: str) -> None:
        self.visitor = visitor
        self.values: dict[str, Any] = {
            "url.pathname": f"/study/{quote(name)}", "url.search": "", "front-study.data": name,
            "front-x.value": "log", "front-show.value": ["dominated", "errors"],
            "theme.data": "light", "front-view.data": "", "front-status.className": "",
        }  # fmt: skip
        self.polls = 0

    def first_view(self) -> dict[str, Cost]:
        """Everything that opening the page asks for."""
        layout, found = self.visitor.call("content.children", "url", self.values)
        assert "front-figure" in json.dumps(found)
        figure, drawn = self.visitor.call("front-figure.figure", "front-study", self.values)
        self.values["front-seen.data"] = drawn["front-seen"]["data"]
        return {"layout": layout, "figure": figure, **self._others()}

    def _others(self) -> dict[str, Cost]:
        """What follows from news: the table with its words, parallel coordinates and course."""
        table, found = self.visitor.call("front-pick.children", "front-seen", self.values)
        assert found["front-table"]["rowData"]
        others, drawn = self.visitor.call("front-parallel.figure", "front-seen", self.values)
        self.values["front-drawn.data"] = drawn["front-drawn"]["data"]
        return {"table": table, "parallel and course": others}

    def poll(self, news: bool) -> dict[str, Cost]:
        """What the page asks for every two seconds."""
        self.polls += 1
        self.values["front-poll.n_intervals"] = self.polls
        follow, found = self.visitor.call("front-figure.figure@", "front-poll", self.values)
        assert (found is not None) == news
        if found is None:
            return {"follow": follow}
        self.values["front-seen.data"] = found["front-seen"]["data"]
        return {"follow": follow, **self._others()}


class Overview:
    """The page of all studies.

    Args:
        visitor: that opened the dashboard.
        studies: how many there are.
    """

    def __init__(self, visitor: Visitor, studies: int) -> None:
        self.visitor, self.studies = visitor, studies
        self.values: dict[str, Any] = {
            "url.pathname": "/", "url.search": "", "studies-search.value": "",
            "studies-sort.value": "name", "studies-share.value": "0.25",
            "studies-archived.value": [],
        }  # fmt: skip
        self.whole = False

    def first_view(self) -> dict[str, Cost]:
        """Everything that opening the page asks for."""
        layout, _ = self.visitor.call("content.children", "url", self.values)
        return {"layout": layout, **self.poll()}

    def poll(self) -> dict[str, Cost]:
        """What the page asks for every two seconds."""
        table, found = self.visitor.call("studies-table.children", "studies-poll", self.values)
        if found is not None:
            text = json.dumps(found)
            assert text.count("/study/") >= self.studies
            self.whole = "is being read" not in text
            self.values["studies-seen.data"] = found["studies-seen"]["data"]
        return {"table": table}

    def rest(self) -> Cost:
        """Polls until every study has been read."""
        cost = Cost()
        while not self.whole:
            cost += self.poll()["table"]
        return cost


# Measuring over HTTP


class Samples:
    """Costs by what was asked for, and by its parts."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], list[Cost]] = defaultdict(list)

    def add(self, page: str, what: str, parts: dict[str, Cost]) -> None:
        """One more time."""
        for part, cost in parts.items():
            self.rows[page, what, part].append(cost)
        if len(parts) > 1:
            self.rows[page, what, "all"].append(sum(parts.values(), Cost()))

    def as_rows(self) -> list[dict[str, Any]]:
        """Plain values, in the order of asking."""
        rows = []
        for (page, what, part), costs in self.rows.items():
            each = {key: [getattr(one, key) for one in costs] for key in asdict(Cost())}
            alone = (page, what, "all") not in self.rows
            target = next((ms for key, ms in TARGETS_MS.items() if what.startswith(key)), None)
            rows.append(
                {
                    "page": page, "what": what, "part": part, "times": len(costs),
                    "target_ms": target if alone or part == "all" else None,
                    **{key: spread(values) for key, values in each.items()},
                }
            )  # fmt: skip
        return rows


def measure_server(address: str, names: Sequence[str], quick: bool) -> list[dict[str, Any]]:
    """Views and polls of both pages."""
    samples, store, news = Samples(), StudyStore(address), NEWS // EVALUATIONS
    starts = 2 if quick else 5
    for _ in range(starts):
        with ours(address) as served_at:
            visitor = Visitor(served_at)
            samples.add("any", "frame, server just started", {"all": visitor.open()})
            overview = Overview(visitor, len(names))
            samples.add("all studies", "first view, cold", overview.first_view())
            samples.add("all studies", "what was left to read, cold", {"table": overview.rest()})
    for number in range(starts - 1):
        with ours(address) as served_at:
            visitor = Visitor(served_at)
            visitor.open()
            parts = FrontPage(visitor, names[number]).first_view()
            samples.add("study", "first view, server just started", parts)
    with ours(address) as served_at:
        visitor = Visitor(served_at)
        visitor.open()
        parts = FrontPage(visitor, names[-1]).first_view()
        samples.add("study", "first view, server just started", parts)
        for name in names[:-1]:
            samples.add("study", "first view, cold", FrontPage(visitor, name).first_view())
        for name in (*names, *names):
            page = FrontPage(visitor, name)
            samples.add("study", "first view, warm", page.first_view())
            for _ in range(3):
                samples.add("study", "poll without news", page.poll(news=False))
        overview = Overview(visitor, len(names))
        for _ in range(20):
            samples.add("all studies", "first view, warm", overview.first_view())
        for _ in range(20):
            samples.add("all studies", "poll without news", overview.poll())
        for name in names:
            page = FrontPage(visitor, name)
            page.first_view()
            grow(store, name, news)
            samples.add("study", "poll with news: 100 points", page.poll(news=True))
        for name in names:
            grow(store, name, news)
            samples.add("all studies", "poll with news: 100 points", overview.poll())
        page = FrontPage(visitor, names[0])
        page.first_view()
        for number in range(4 if quick else 21):  # a page that stays open
            grow(store, names[0], news)
            if number < 20:
                what = "poll with news: page open for 1-10 times 100 points"
                what = what if number < 10 else what.replace("1-10", "11-20")
            else:
                what = "poll with news: drawn anew after 2,000 points"
            samples.add("study", what, page.poll(news=True))
    store.database.engine.dispose()
    return samples.as_rows()


# Optuna's dashboard over HTTP


def measure_theirs(address: str, limit: int) -> dict[str, Any]:
    """Its study answer, cold and a second time, and which of its answers fail."""
    found: dict[str, Any] = {"failed": []}
    cold, warm = [], []
    with theirs(address) as served_at:
        visitor = Visitor(served_at)
        listed, status, text = visitor.ask("/api/studies")
        assert status == 200, (status, text[:200])
        ids = [one["study_id"] for one in json.loads(text)["study_summaries"]]
        for number in ids[:limit]:
            cost, status, text = visitor.ask(f"/api/studies/{number}")
            if status != 200:
                found["failed"].append(f"/api/studies/ID: {status} {text[:100].decode()}")
                break
            cold.append(cost)
            warm.append(visitor.ask(f"/api/studies/{number}")[0])
        found["trials"] = len(json.loads(text).get("trials", []))
        kinds = ("pareto_front", "parallel_coordinate")
        for path in (
            f"/api/studies/{ids[0]}/param_importances",
            *(f"/api/studies/{ids[0]}/plot/{kind}" for kind in kinds),
            f"/csv/{ids[0]}",
        ):
            _, status, text = visitor.ask(path)
            if status >= 400:
                shown = path.replace(str(ids[0]), "ID")
                found["failed"].append(f"{shown}: {status} {text[:100].decode(errors='replace')}")
    costs = {"/api/studies": [listed], "/api/studies/ID, cold": cold, "/api/studies/ID": warm}
    found["ids"] = ids
    found["answers"] = {
        what: {key: spread([getattr(one, key) for one in several]) for key in asdict(Cost())}
        for what, several in costs.items()
        if several
    }
    return found


# In the browser


def seen_after(context: BrowserContext, address: str, condition: str, count: int) -> dict[str, Any]:
    """Open an address and wait until it shows what it should.

    Returns:
        milliseconds since the navigation began, those that the page's own thread used of a
        processor, bytes received, and what went wrong.
    """
    page = context.new_page()
    page.set_viewport_size({"width": 1440, "height": 900})
    received, wrong = [0], []
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    session.on(
        "Network.loadingFinished",
        lambda event: received.__setitem__(0, received[0] + int(event["encodedDataLength"])),
    )
    page.on("pageerror", lambda error: wrong.append(f"script error: {str(error)[:100]}"))
    page.on(
        "response",
        lambda answer: (
            answer.status >= 400
            and wrong.append(f"{answer.status} from {urlsplit(answer.url).path}")
        ),
    )
    try:
        page.goto(address, wait_until="commit")
        ms = page.wait_for_function(condition, arg=count, timeout=WAIT_MS).json_value()
        metrics = session.send("Performance.getMetrics")["metrics"]
        page.wait_for_timeout(300)
    finally:
        page.close()
    (cpu,) = [1000 * one["value"] for one in metrics if one["name"] == "TaskDuration"]
    return {"ms": ms, "cpu_ms": cpu, "bytes": received[0], "wrong": wrong}


def measure_pages(
    browser: Browser, served: Any, paths: Sequence[str], condition: str, count: int, caches: int
) -> dict[str, Any]:
    """Open several pages of one fresh server, each under the first ``caches`` of ``CACHES``."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with served as server:
        for path in paths:
            context = browser.new_context()
            for kind, keep in CACHES[:caches]:
                if not keep:
                    context.close()
                    context = browser.new_context()
                found[kind].append(seen_after(context, server.address + path, condition, count))
            context.close()
    wrong = sorted({one for several in found.values() for each in several for one in each["wrong"]})
    return {
        "times": len(paths),
        "wrong": wrong,
        **{
            kind: {key: spread([one[key] for one in several]) for key in ("ms", "cpu_ms", "bytes")}
            for kind, several in found.items()
        },
    }


def measure_browser(
    address: str, as_trials: str, names: Sequence[str], ids: dict[str, list[int]], quick: bool
) -> tuple[str, dict[str, Any]]:
    """Both dashboards in Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no Chromium: install Debian's package chromium"
    few, caches = (1, 1) if quick else (3, len(CACHES))
    our_paths = [f"/study/{quote(name)}" for name in names[:few]]
    their_paths = {key: [f"/dashboard/studies/{one}" for one in ids[key][:few]] for key in ids}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        plan: list[tuple[str, Any, Sequence[str], str, int]] = [
            ("exitbits, /study/NAME", ours(address), our_paths, OURS_IS_THERE, 0),
            ("exitbits, /", ours(address), ["/"], OVERVIEW_IS_THERE, len(names)),
            ("optuna-dashboard, study's front", theirs(address), their_paths["same"],
             THEIR_FRONT_IS_THERE, 0),
            ("optuna-dashboard, study's front, every evaluation a trial", theirs(as_trials),
             their_paths["as trials"], THEIR_FRONT_IS_THERE, 0),
            ("optuna-dashboard, list of studies", theirs(address), ["/dashboard/"],
             THEIR_LIST_IS_THERE, len(names)),
        ]  # fmt: skip
        found = {}
        for what, server, paths, condition, count in plan:
            try:
                found[what] = measure_pages(browser, server, paths, condition, count, caches)
            except Exception as error:  # one page that never shows is a result as well
                found[what] = {"times": 0, "wrong": [str(error).splitlines()[0]]}
        version = browser.version
        browser.close()
    return version, found


def note(what: str) -> None:
    """Say on standard error how far it is."""
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    args = parse(__doc__ or "")
    studies, evaluations = (2, 500) if args.quick else (20, 5_000)
    packages = ["dash", "plotly", "flask-compress", "waitress", "optuna-dashboard", "playwright"]
    result: dict[str, Any] = {"machine": machine(packages), "studies": studies}
    result["evaluations"] = evaluations
    server = Postgres()
    server.start()
    try:
        address, as_trials = new_database(server.url()), new_database(server.url())
        note("fill the store")
        names = filled(address, studies, evaluations)
        store = StudyStore(address)
        filled_with_trials(as_trials, store.evaluations(store.get(names[0]).id))
        with StudyStore(address).database.read() as connection:
            shown = connection.exec_driver_sql("show server_version").scalar()
        result["machine"]["postgresql"] = str(shown)
        note("ask exitbits serve")
        result["server"] = measure_server(address, names, args.quick)
        note("ask optuna-dashboard")
        result["optuna-dashboard"] = {
            "same": measure_theirs(address, studies),
            "as trials": measure_theirs(as_trials, 1),
        }
        note("open pages in Chromium")
        ids = {key: found["ids"] for key, found in result["optuna-dashboard"].items()}
        version, pages = measure_browser(address, as_trials, names, ids, args.quick)
        result["machine"]["chromium"], result["browser"] = version, pages
    finally:
        server.close()
    show(result, tables(result), args.json, 150)


def tables(result: dict[str, Any]) -> list[Table]:
    """The result as tables."""
    size = f"{result['studies']} studies of {result['evaluations']} evaluations"
    first = Table(title=f"exitbits serve, {size}: what the server needs", caption=_CAPTION)
    for heading in ("page", "what", "part"):
        first.add_column(heading)
    for heading in (
        "times",
        "ms median",
        "min",
        "max",
        "cpu ms",
        "target",
        "sent",
        "gzip",
        "plain",
    ):
        first.add_column(heading, justify="right")
    for row in result["server"]:
        target = row["target_ms"]
        met = "" if target is None else "met" if row["ms"]["median"] < target else "MISSED"
        first.add_row(
            row["page"], row["what"], row["part"], str(row["times"]), *_ms(row["ms"]),
            f"{row['cpu_ms']['median']:.1f}",
            f"{target} {met}" if target else "", *(_bytes(row[key]) for key in _SIZES),
            style="bold" if target else None,
        )  # fmt: skip
    second = Table(title="optuna-dashboard on the same store: its answers")
    for heading in ("store", "answer"):
        second.add_column(heading)
    for heading in ("ms median", "min", "max", "cpu ms", "on the wire", "plain"):
        second.add_column(heading, justify="right")
    notes = []
    for store, found in result["optuna-dashboard"].items():
        for what, cost in found["answers"].items():
            second.add_row(
                store,
                what,
                *_ms(cost["ms"]),
                f"{cost['cpu_ms']['median']:.1f}",
                *(_bytes(cost[key]) for key in _SIZES[1:]),
            )
        notes.append(f"{store}: shows {found['trials']} trials of a study")
        notes += [f"{store}: does not work: {one}" for one in found["failed"]]
    third = Table(title="Chromium: time until it shows, everything on these cores")
    for heading in ("page", "store and cache"):
        third.add_column(heading)
    for heading in ("times", "ms median", "min", "max", "page's cpu ms", "bytes received"):
        third.add_column(heading, justify="right")
    for what, found in result["browser"].items():
        for kind, cost in found.items():
            if isinstance(cost, dict):
                third.add_row(
                    what,
                    kind,
                    str(found["times"]),
                    *_ms(cost["ms"]),
                    f"{cost['cpu_ms']['median']:.1f}",
                    _bytes(cost["bytes"]),
                )
        notes += [f"{what}: {one}" for one in found["wrong"]]
    second.caption = "\n".join(note for note in notes if ": shows" in note)
    third.caption = "\n".join(note for note in notes if ": shows" not in note) or "no errors"
    return [first, second, third]


_SIZES = ("sent", "compressed", "plain")
_CAPTION = (
    "cold: this study, or these studies, were never read by this server; the database's own memory "
    "is warm. A row in bold stands against its target; bytes are medians."
)


def _ms(values: dict[str, float]) -> list[str]:
    return [f"{values[key]:.1f}" for key in ("median", "min", "max")]


def _bytes(values: dict[str, float]) -> str:
    return f"{values['median']:,.0f}"


if __name__ == "__main__":
    main()
