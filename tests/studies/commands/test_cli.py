"""The command's manners: one clear line, the documented exit code, nothing harmed."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import command_env
from small_study import grow

from studies.cli import COMMANDS, build_parser, main
from studies.records import StudyRecord
from studies.store.writer import StudyStore

Make = Callable[..., StudyRecord]


@pytest.fixture
def finished(tmp_path: Path, make_record: Make, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    """A finished study of twelve evaluations in the folder the test works in."""
    monkeypatch.chdir(tmp_path)
    store = StudyStore("sqlite:///exitbits.db", create=True)
    store.create(make_record())
    grow(store, "small", 12)
    return store


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert COMMANDS[command][1].capitalize() in " ".join(capsys.readouterr().out.split())


def test_front_json_follows_the_contract(
    finished: StudyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["front", "small", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["study", "reference", "hypervolume", "evaluations", "front"]
    assert printed["study"] == "small"
    assert list(printed["reference"]) == ["accuracy", "gbops"]
    assert printed["reference"]["accuracy"] == 0.9
    # 100 + 2 * (300 + 50) MACs and the last head's 10, each at 32 x 32.
    assert printed["reference"]["gbops"] == pytest.approx(810 * 1024 / 1e9)
    assert printed["evaluations"] == 12
    costs = [row["gbops"] for row in printed["front"]]
    values = [row["accuracy"] for row in printed["front"]]
    assert costs == sorted(costs)
    assert values == sorted(set(values))
    rows = finished.evaluations(finished.get("small").id)
    by_trial = {
        row.trial: (row, full) for row, full in zip(rows, finished.details(rows), strict=True)
    }
    for row in printed["front"]:
        narrow, recorded = by_trial[row["trial"]]
        assert row == {
            "digest": recorded.policy.digest,
            "trial": row["trial"],
            "source": narrow.source,
            "accuracy": recorded.value,
            "accuracy_se": recorded.standard_error,
            "drop": pytest.approx(0.9 - recorded.value, abs=1e-12),
            "drop_se": recorded.drop_se,
            "gbops": recorded.cost.expected / 1e9,
            "gbops_p95": recorded.cost.p95 / 1e9,
            "reduction": pytest.approx(1 - recorded.cost.expected / (810 * 1024), abs=1e-12),
            "mean_exit": recorded.mean_exit,
            "weight_bits": list(recorded.policy.bits.weights),
            "activation_bits": list(recorded.policy.bits.activations),
            "embed_bits": 8,
            "head_bits": 8,
            "thresholds": list(recorded.policy.thresholds),
        }


def test_front_csv_and_table_hold_the_same_policies(
    finished: StudyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["front", "small", "--json"])
    front = json.loads(capsys.readouterr().out)["front"]
    digests = [row["digest"] for row in front]
    main(["front", "small", "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [list(row) for row in rows] == [list(row) for row in front]
    for shown, row in zip(rows, front, strict=True):
        assert shown["digest"] == row["digest"]
        assert float(shown["drop"]) == row["drop"]
        assert shown["weight_bits"] == "".join(map(str, row["weight_bits"]))
        assert [float(t) for t in shown["thresholds"].split()] == pytest.approx(
            row["thresholds"][:-1], rel=1e-5
        )
    main(["front", "small"])
    table = capsys.readouterr().out
    assert all(digest[:8] in table for digest in digests)


def test_status_counts_trials(finished: StudyStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (row,) = printed["studies"]
    assert printed["workers"] == []
    assert (row["study"], row["finished"], row["budget"], row["done"]) == ("small", 12, 12, True)
    assert main(["status"]) == 0
    assert "12/12 done" in capsys.readouterr().out


def test_pick_takes_the_best_under_a_budget(
    finished: StudyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = finished.evaluations(finished.get("small").id)
    budget = sorted(found.gbops for found in rows)[6]
    assert main(["pick", "small", "--max-gbops", str(budget), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accuracy"] == max(found.value for found in rows if found.gbops <= budget)
    assert printed["certified"] is False
    floor = sorted(found.value for found in rows)[6]
    assert main(["pick", "small", "--min-accuracy", str(floor), "-o", "second.json", "--json"]) == 0
    cheapest = min(found.gbops for found in rows if found.value >= floor)
    assert json.loads(capsys.readouterr().out)["gbops"] == cheapest


def test_pick_says_that_it_is_not_certified(
    finished: StudyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pick", "small", "--max-gbops", "1"]) == 0
    assert "NOT CERTIFIED" in capsys.readouterr().out
    assert json.loads(Path("policy.json").read_text())["certificate"] is None


def test_pick_never_replaces_a_file_unasked(finished: StudyStore) -> None:
    Path("policy.json").write_text("mine")
    assert main(["pick", "small", "--max-gbops", "1"]) == 2
    assert Path("policy.json").read_text() == "mine"
    assert main(["pick", "small", "--max-gbops", "1", "--force"]) == 0


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (["--max-gbops", "0"], "the cheapest costs"),
        (["--min-accuracy", "0.999"], "the best has"),
        (["--digest", "zz"], "no policy with a digest"),
    ],
)
def test_pick_without_a_match_ends_with_three(
    finished: StudyStore, capsys: pytest.CaptureFixture[str], rule: list[str], words: str
) -> None:
    assert main(["pick", "small", *rule]) == 3
    assert words in capsys.readouterr().err
    assert not Path("policy.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "fashoin"], "nothing is called 'fashoin'"),
        (["launch", "none.toml"], "none.toml"),
        (["launch", "--trials", "0"], "'0' must be a whole number"),
        (["launch", "--trials", "many"], "'many' must be a whole number"),
        (["launch", "--workers", "-1"], "'-1' must be a whole number"),
        (["launch", "--store", "mysql://host/db"], "give sqlite:///FILE or postgresql://"),
        (["launch", "--store", "postgresql://me:hidden@host/db"], "holds a password"),
        (["status", "--store", "postgresql://me:hidden@host/db"], "holds a password"),
        (["study", "delete", "small"], "confirm with --yes"),
        (["study", "rename", "small", "a\nb"], "printable"),
        (["study", "archive", "nobody"], "no study 'nobody'"),
        (["worker", "--study", "nobody", "--cache", "{cache}"], "no study 'nobody'"),
        (
            ["launch", "--store", "sqlite:////proc/none/x.db", "--cache", "{cache}"],
            "/proc/none/x.db",
        ),
        (["launch", "--cache", "/proc/none"], "/proc/none"),
        (["launch", "--name", "x" * 200], "100"),
        (["front", "small", "--store", "sqlite:///none.db"], "no store at 'none.db'"),
        (["front", "nobody"], "no study 'nobody' in this store: there are small"),
        (["front", "small", "--json", "--csv"], "not allowed with"),
        (["pick", "small"], "give one of --max-gbops"),
        (["pick", "small", "--max-gbops", "nan"], "'nan' must be a finite number"),
        (["pick", "small", "--max-drop", "2"], "--max-drop 2.0"),
        (["pick", "small", "--knee", "-o", "/proc/none/p.json"], "/proc/none/p.json"),
        (["evaluate", "none.json"], "none.json"),
        (["evaluate", "exitbits.db"], "exitbits.db"),
        (["train", "fashion", "--data", "nowhere"], "'nowhere'"),
        (["train", "fashion", "--data", "."], "train-images-idx3-ubyte"),
        (["train", "fashion", "--data", ".", "-o", "model.pt"], "'model.pt' must end in"),
        (["train", "imagenet", "--data", "."], "'imagenet'"),
        (["frnt"], "invalid choice: 'frnt'"),
        (["front"], "required: study"),
        (["front", "small", "--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    finished: StudyStore,
    capsys: pytest.CaptureFixture[str],
    shared_cache: Path,
    arguments: list[str],
    words: str,
) -> None:
    before = Path("exitbits.db").read_bytes(), sorted(path.name for path in Path().iterdir())
    given = [word.format(cache=shared_cache) for word in arguments]
    try:
        code = main(given)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.strip().count("\n") == 0
    assert "hidden" not in captured.err
    assert "Traceback" not in captured.err
    after = Path("exitbits.db").read_bytes(), sorted(path.name for path in Path().iterdir())
    assert after == before


@pytest.mark.parametrize(
    "body",
    [
        "import studies.cli",
        "from studies.cli import main; main(['front', 'small', '--json'])",
        "from studies.cli import main; main(['status'])",
        "from studies.cli import main; main(['pick', 'small', '--knee'])",
        # Every command reads its arguments without them, so that a wrong one is told at once.
        "from studies.cli import COMMANDS, build_parser; [build_parser(one) for one in COMMANDS]",
    ],
)
def test_reading_commands_load_neither_torch_nor_timm(finished: StudyStore, body: str) -> None:
    check = "import sys; print(sorted({'torch', 'timm'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{body}; {check}"],
        env=command_env(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.strip() == "[]"


def test_a_reader_that_leaves_early_is_no_error(finished: StudyStore) -> None:
    done = subprocess.run(
        f"{sys.executable} -m studies.cli front small --json | head -n 1",
        shell=True, env=command_env(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_only_the_chosen_command_is_imported() -> None:
    parser = build_parser(None)
    assert parser.parse_args(["status"]).command == "status"
