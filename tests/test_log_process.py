"""The process that logs a study to MLflow ends well whatever it finds, and says where it does not."""

import pytest

from flows.project.errors import WorkerError
from flows.studies.log_process import log_process


class Waits:
    """Stands for a StudyLog that waits for the files, and notes when it had them."""

    def log(self, file, written) -> None:
        written()
        file.write_text("logged", encoding="utf-8")


class Ready:
    """For one that finds its result logged, or whose store fails: it waits for nothing."""

    def log(self, file, written) -> None:
        file.write_text("nothing to do", encoding="utf-8")


class Mistaken:
    def log(self, file, written) -> None:
        raise TypeError("a mistake")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def test_it_waits_until_the_files_are_written(tmp_path):
    file = tmp_path / "said"
    with log_process() as process:
        process.log(Waits(), file)
        assert not file.exists()
        process.finish()
    assert file.read_text(encoding="utf-8") == "logged"


def test_it_may_end_before_the_files_are_written(tmp_path):
    file = tmp_path / "said"
    with log_process() as process:
        process.log(Ready(), file)
        process.process.join()
        process.finish()
    assert file.exists()


def test_a_mistake_in_it_is_no_success(tmp_path):
    with log_process() as process:
        process.log(Mistaken(), tmp_path / "said")
        with pytest.raises(WorkerError, match="exit code 1"):
            process.finish()


def test_it_ends_with_a_study_that_fails():
    with pytest.raises(KeyboardInterrupt), log_process() as process:
        raise KeyboardInterrupt
    assert not process.process.is_alive()
