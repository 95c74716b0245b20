"""Our storage is a whole Optuna storage: Optuna's own tests, its samplers, and its dashboard."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase

from studies.store.database import Database
from studies.store.optuna_storage import StoreStorage


@pytest.fixture
def storage(address: str) -> Iterator[StoreStorage]:
    storage = StoreStorage(Database(address, create=True))
    yield storage
    storage.database.engine.dispose()


class TestOptunasOwn(StorageTestCase):
    """Every test that Optuna ships for storages, on both databases."""


def objective(trial: optuna.Trial) -> tuple[float, float]:
    bits = [trial.suggest_int(f"bits{index}", 2, 8) for index in range(3)]
    threshold = trial.suggest_float("threshold", 0, 1)
    return sum(bits) / 24 - threshold / 10, sum(bits) * (1 - threshold / 2)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.NSGAIISampler(population_size=6, seed=0),
        optuna.samplers.TPESampler(multivariate=True, n_startup_trials=6, seed=0),
        optuna.samplers.GPSampler(n_startup_trials=6, seed=0),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_optunas_samplers_give_what_they_give_in_memory(
    storage: StoreStorage, sampler: optuna.samplers.BaseSampler
) -> None:
    import copy

    in_memory = optuna.create_study(
        directions=["maximize", "minimize"], sampler=copy.deepcopy(sampler)
    )
    in_memory.optimize(objective, n_trials=15)
    study = optuna.create_study(
        storage=storage, directions=["maximize", "minimize"], sampler=copy.deepcopy(sampler)
    )
    study.optimize(objective, n_trials=15)
    assert [trial.params for trial in study.trials] == [t.params for t in in_memory.trials]
    assert [trial.values for trial in study.trials] == [t.values for t in in_memory.trials]
    assert {t.number for t in study.best_trials} == {t.number for t in in_memory.best_trials}


def test_another_instance_sees_every_change(storage: StoreStorage, address: str) -> None:
    other = StoreStorage(Database(address, create=False))
    study = optuna.create_study(storage=storage, study_name="shared")
    seen = optuna.load_study(study_name="shared", storage=other)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("note", [1, {"two": None}])
    (running,) = seen.trials
    assert running.params == trial.params
    assert running.user_attrs == {"note": [1, {"two": None}]}
    study.tell(trial, 0.25)
    (finished,) = seen.trials
    assert (finished.state, finished.value) == (optuna.trial.TrialState.COMPLETE, 0.25)


@pytest.mark.parametrize("name", ["a\x00b", "x" * 513])
def test_names_that_no_database_keeps_are_refused(storage: StoreStorage, name: str) -> None:
    with pytest.raises(ValueError, match="at most 512 characters"):
        optuna.create_study(storage=storage, study_name=name)
    assert storage.get_all_studies() == []


@pytest.mark.parametrize("name", ["'; drop table studies; --", "<b>&amp;", "ü ☃ \n", "x" * 512])
def test_any_other_name_is_kept(storage: StoreStorage, name: str) -> None:
    optuna.create_study(storage=storage, study_name=name)
    assert [study.study_name for study in storage.get_all_studies()] == [name]


def test_optuna_dashboard_shows_a_study(storage: StoreStorage) -> None:
    from optuna_dashboard import wsgi

    study = optuna.create_study(
        storage=storage, study_name="seen", directions=["maximize", "minimize"]
    )
    study.optimize(objective, n_trials=3)
    app = wsgi(storage)

    def get(path: str) -> dict[str, object]:
        status: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x",
            "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
        }  # fmt: skip
        body = b"".join(app(environ, lambda line, headers, error=None: status.append(line)))
        assert status[0].startswith("200"), body
        found: dict[str, object] = json.loads(body)
        return found

    listed = get("/api/studies")["study_summaries"]
    assert [one["study_name"] for one in listed] == ["seen"]  # type: ignore[attr-defined]
    shown = get(f"/api/studies/{study._study_id}")
    assert len(shown["trials"]) == 3  # type: ignore[arg-type]
